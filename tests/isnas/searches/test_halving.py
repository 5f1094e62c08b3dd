"""Successive halving, Hyperband and ASHA: who is trained for how long, by brute force; children go on as they were."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from making import IMAGES

import isnas
from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, UserError
from isnas.runs.evaluation import from_scratch
from isnas.runs.training import Training
from isnas.searches.halving import (
    HalvingOptions,
    HalvingSearch,
    Job,
    Plan,
    asha,
    hyperband,
    length,
    plan_of,
    rungs,
    successive_halving,
)
from isnas.searches.registry import create_search, search_options

ALLOCATIONS = ("successive-halving", "hyperband", "asha")
TINY = {"channels": 2, "cells": 1, "batch_size": 8}
sizes = some.tuples(some.integers(1, 40), some.integers(1, 30), some.integers(2, 4))


def signal(job: Job) -> float:
    """Return a number that looks random: a function of child and epoch alone."""
    return math.sin(12.9898 * job.child + 78.233 * job.until) * 43758.5453 % 1


def carried_out(plan: Plan) -> list[Job]:
    jobs = []
    try:
        job = next(plan)
        while True:
            jobs.append(job)
            job = plan.send(signal(job))
    except StopIteration:
        return jobs


@given(sizes)
def test_rungs(size: tuple[int, int, int]) -> None:
    """From the top down by eta, to the last that is not below the least; rising."""
    least, more, eta = size
    most = least + more
    found = rungs(least, most, eta)
    assert found[-1] == most
    assert found == sorted(set(found))
    assert found[0] >= least > most // eta ** len(found)


@given(sizes)
def test_successive_halving_keeps_the_best_of_each_rung(size: tuple[int, int, int]) -> None:
    """Counted from the jobs alone: who reached a rung, and that nobody better was left behind."""
    number, most, eta = size
    levels = rungs(1, most, eta)
    jobs = carried_out(successive_halving(number, levels, eta))
    at = [[job.child for job in jobs if job.until == until] for until in levels]
    assert sum(map(len, at)) == len(jobs)
    assert sorted(at[0]) == list(range(number))
    for i, until in enumerate(levels[:-1]):
        assert len(at[i + 1]) == max(1, number // eta ** (i + 1))
        worst = min(signal(Job(child, until)) for child in at[i + 1])
        left = [signal(Job(child, until)) for child in at[i] if child not in at[i + 1]]
        assert all(value <= worst for value in left)
    # a child is given up exactly when it is asked for no more, but for those of the end
    given_up = [child for job in jobs for child in job.over]
    assert sorted(given_up) == sorted(set(at[0]) - set(at[-1]))
    for i, job in enumerate(jobs):
        assert not {later.child for later in jobs[i:]} & set(job.over)


def test_successive_halving_by_hand() -> None:
    """Nine children, eta 3: nine for one epoch, three for three, one for nine; 9 + 3 * 2 + 6 epochs."""
    jobs = carried_out(successive_halving(9, [1, 3, 9], 3))
    assert Counter(job.until for job in jobs) == {1: 9, 3: 3, 9: 1}
    assert length(successive_halving(9, [1, 3, 9], 3)) == 21


def test_hyperband_has_the_brackets_of_its_algorithm() -> None:
    """Algorithm 1 with R = 81, eta = 3, by hand: children of each rung, and their epochs.

    The paper's table 1 begins the last four brackets with 27, 9, 6 and 5, where its algorithm says 34, 15, 8 and 5.
    """
    published = [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    begun = sum(bracket[0][0] for bracket in published)
    jobs = carried_out(hyperband(begun, 1, 81, 3))
    expected = [(n, until) for bracket in published for n, until in bracket]
    found, i = [], 0
    for n, until in expected:
        assert {job.until for job in jobs[i : i + n]} == {until}
        found.append((n, until))
        i += n
    assert i == len(jobs)
    again = carried_out(hyperband(begun + 4, 1, 81, 3))
    assert again[: len(jobs)] == jobs
    assert {job.child for job in again[len(jobs) :]} == set(range(begun, begun + 4))
    assert again[len(jobs)].until == 1


@given(sizes)
def test_asha_promotes_as_it_is_defined(size: tuple[int, int, int]) -> None:
    """Each job against the definition, from the record of those before alone."""
    number, most, eta = size
    levels = rungs(1, most, eta)
    jobs = carried_out(asha(number, levels, eta))
    for i in range(len(jobs) + 1):
        before = jobs[:i]
        promotable = []
        for low, high in reversed(list(itertools.pairwise(levels))):
            here = [job for job in before if job.until == low]
            best = sorted(here, key=signal, reverse=True)[: len(here) // eta]
            gone = {job.child for job in before if job.until == high}
            promotable += [Job(job.child, high) for job in best if job.child not in gone]
        started = len({job.child for job in before})
        if promotable:
            assert jobs[i] == promotable[0]
        elif started < number:
            assert jobs[i] == Job(started, levels[0])
        else:
            assert i == len(jobs)


@given(sizes, some.sampled_from(ALLOCATIONS))
def test_no_child_is_trained_twice_for_an_epoch(size: tuple[int, int, int], name: str) -> None:
    """Every job of a child goes further than the one before; each of them begins."""
    number, most, eta = size
    options = HalvingOptions(architectures=number, eta=eta, allocation=name)
    reached: dict[int, int] = {}
    for job in carried_out(plan_of(options, most)):
        assert reached.get(job.child, 0) < job.until <= most
        reached[job.child] = job.until
    assert sorted(reached) == list(range(number))


@given(some.integers(1, 60), some.integers(1, 12), some.sampled_from(ALLOCATIONS))
def test_schedule_is_the_longest_that_is_paid_for(paid: int, most: int, name: str) -> None:
    options = search_options(name, NASBENCH201_SPACE, epochs=most)
    number = HalvingSearch.scheduled(options, paid)["architectures"]
    assert number == 1 or length(plan_of(options.method, most, number)) <= paid
    assert length(plan_of(options.method, most, number + 1)) > paid


@pytest.mark.parametrize("name", ALLOCATIONS)
class TestSearch:
    OPTIONS: ClassVar = {"architectures": 5, "epochs": 4, "eta": 2, "learning_rate": 0.1, **TINY}

    def search(self, name: str, data: Dataset, **changes: Any) -> HalvingSearch:
        return create_search(name, NASBENCH201_SPACE, data, **{**self.OPTIONS, **changes})

    def test_children_are_trained_as_if_alone(
        self,
        name: str,
        toy_data: Callable[..., Dataset],
        drive: Callable[..., Any],
        recorder: Any,
    ) -> None:
        """The value of each job is that of a training by itself that was never interrupted, stopped there."""
        data = toy_data(32)
        search = self.search(name, data)
        drive(search, recorder)
        assert search.epochs == search.epoch == sum(search._reached.values())
        for job, value in search.judged:
            genotype = search.child_genotype(job.child)
            network = from_scratch(genotype, search.options, IMAGES, data)
            alone = Training(
                network, search.options, IMAGES, data, torch.device("cpu"), part="weights"
            )
            while alone.epoch < job.until:
                for batch in alone.batches(alone.epoch, 0):
                    alone.train_step(batch)
                    alone.step += 1
                alone.epoch, alone.step = alone.epoch + 1, 0
            feed = IMAGES.scoring_feed(
                data, search.options.optimizer, seed=0, device=torch.device("cpu"), whole=True
            )
            assert value == IMAGES.test(alone.network, feed)["test_accuracy"]
        longest = max(job.until for job, _ in search.judged)
        best = max(value for job, value in search.judged if job.until == longest)
        found = [job.child for job, value in search.judged if (job.until, value) == (longest, best)]
        assert search.genotype() == search.child_genotype(found[0])

    def test_going_on_is_the_same(
        self,
        name: str,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        take_steps: Callable[..., Any],
    ) -> None:
        """Bit for bit, broken off after every step once."""
        data = toy_data(32)

        def losses_of(search: HalvingSearch, number: int) -> list[float]:
            return [float(m["train_loss"]) for m in take_steps(search, recorder, number)]

        whole = self.search(name, data)
        losses = losses_of(whole, 10**6)
        search, found = self.search(name, data), []
        while search.epoch < search.epochs:
            found += losses_of(search, 3)
            other = self.search(name, data)
            other.load_state_dict(search.state_dict())
            search = other
        assert found == losses
        assert search.judged == whole.judged
        assert search.genotype() == whole.genotype()

    def test_keeps_only_children_that_may_go_on(
        self,
        name: str,
        toy_data: Callable[..., Dataset],
        drive: Callable[..., Any],
        recorder: Any,
    ) -> None:
        search = self.search(name, toy_data(32))
        drive(search, recorder)
        assert search.state_dict()["paused"] == {}

    def test_a_run_that_is_resumed(self, name: str, tmp_path: Path) -> None:
        """The command's run: more epochs are refused before anything is written, the run goes on."""
        out = tmp_path / "run"
        options = {**TINY, "batch_size": 128, "architectures": 2, "epochs": 2, "eta": 2}
        isnas.search(name, "nasbench201", out=out, evaluation_epochs=0, device="cpu", **options)
        with pytest.raises(UserError, match="cannot be given more epochs"):
            isnas.resume(out, epochs=9)
        assert isnas.resume(out).results["search"]["genotype"]


def test_min_epochs_must_fit() -> None:
    with pytest.raises(UserError, match="min_epochs must be at most epochs, 3, got 4"):
        isnas.search("asha", DARTS_SPACE, min_epochs=4, epochs=3, channels=2, cells=3)
