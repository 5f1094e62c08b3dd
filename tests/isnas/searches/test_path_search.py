"""Common behaviour of random sharing and ENAS: images and operations used when, the last choice, exact resumption."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from making import IMAGES, random_genotype
from torch import Tensor

from isnas import DARTS_SPACE, METHODS, Dataset, Genotype, Place, UserError, get_space
from isnas.networks.core import CellNetwork
from isnas.searches.enas import EnasOptions, EnasSearch
from isnas.searches.path_search import PathSearch, Scores
from isnas.searches.random_sharing import RandomSharingOptions, RandomSharingSearch
from isnas.searches.registry import create_search

SMALL = {"channels": 2, "cells": 3, "batch_size": 8, "epochs": 2, "seed": 3}
FEW = {
    EnasSearch: {"controller_steps": 2, "samples": 2, "final_samples": 4, "validation_amount": 8},
    RandomSharingSearch: {"candidates": 4, "validation_amount": 8},
}
NAMES = {EnasSearch: "enas", RandomSharingSearch: "random-sharing"}
OPTIONS = {EnasSearch: EnasOptions, RandomSharingSearch: RandomSharingOptions}
SEARCHES = pytest.mark.parametrize("search", [RandomSharingSearch, EnasSearch])
SPACES = pytest.mark.parametrize("space", ["darts", "nasbench201"])
Drive = Callable[..., list[dict[str, Any]]]


def search_of(
    search: type[PathSearch], data: Dataset, space: str = "nasbench201", **changes: Any
) -> PathSearch:
    cells = {"cells": 3 if space == "darts" else 1}
    values = {**SMALL, **cells, **FEW[search], **changes}
    return create_search(NAMES[search], get_space(space), data, **values)


@contextmanager
def watching(network: CellNetwork) -> Iterator[list[tuple[bool, dict[str, set[Place]]]]]:
    """Note for each pass whether it is for training, and the places in all cells of a kind that ran."""
    passes: list[tuple[bool, dict[str, set[Place]]]] = []
    hooks = [
        network.register_forward_pre_hook(
            lambda *_: passes.append((torch.is_grad_enabled(), {k: set() for k in network.kinds}))
        )
    ]
    for kind in network.space.kinds:
        for place in network.space.places():
            for operation in network.operations_at(kind, [place]):
                hooks.append(
                    operation.register_forward_pre_hook(
                        lambda *_, kind=kind, place=place: passes[-1][1][kind].add(place)
                    )
                )
    yield passes
    for hook in hooks:
        hook.remove()


class TestSteps:
    @SEARCHES
    @SPACES
    def test_only_the_sampled_places_run_and_learn(
        self, toy_data: Callable[..., Dataset], search: type[PathSearch], space: str
    ) -> None:
        stage = search_of(search, toy_data(), space)
        drawn = set()
        for batch in stage.batches(0, 0):
            genotype = stage.path()
            assert stage.path() == genotype  # a function of where the search stands
            places = genotype.places(stage.space)
            before = {name: p.detach().clone() for name, p in stage.network.named_parameters()}
            with watching(stage.network) as passes:
                metrics = stage.train_step(batch)
            assert passes == [(True, {kind: set(places[kind]) for kind in stage.network.kinds})]
            assert set(metrics) == {"train_loss", "train_accuracy"}
            active = {
                id(p)
                for kind, of_kind in places.items()
                for operation in stage.network.operations_at(kind, of_kind)
                for p in operation.parameters()
            }
            for name, p in stage.network.named_parameters():
                if ".operations." in name and id(p) not in active:
                    assert torch.equal(p, before[name]), name
            stage.step += 1
            drawn.add(genotype)
        assert len(drawn) == stage.steps == 2

    @SEARCHES
    def test_an_epoch_is_the_first_half(
        self, toy_data: Callable[..., Dataset], search: type[PathSearch]
    ) -> None:
        """Also where the second half has a batch less."""
        stage = search_of(search, toy_data(n=33, classes=33), batch_size=2)
        first = set(stage.train_feed.indices.tolist())
        labels = [y for _, y in stage.batches(0, 0)]
        assert len(labels) == stage.steps == len(first) // 2
        assert set(torch.cat(labels).tolist()) <= first

    @SEARCHES
    def test_halves_are_used_for_what_they_are_for(
        self,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        drive: Drive,
        monkeypatch: pytest.MonkeyPatch,
        search: type[PathSearch],
    ) -> None:
        """Each image is a class of its own here. The test data of `toy_data` cannot be touched."""
        stage = search_of(search, toy_data(n=32, classes=32))
        trained: list[int] = []
        scored: list[int] = []
        train, score = stage.train_weights, stage.score
        monkeypatch.setattr(
            stage,
            "train_weights",
            lambda batch, c: trained.extend(batch[1].tolist()) or train(batch, c),
        )

        def note(genotype: Genotype, batches: Any) -> float:
            batches = list(batches)
            scored.extend(label for _, y in batches for label in y.tolist())
            return score(genotype, batches)

        monkeypatch.setattr(stage, "score", note)
        drive(stage, recorder)
        halves = [set(b.indices.tolist()) for b in (stage.train_feed, stage.valid_feed)]
        assert set(trained) == halves[0]
        assert set(scored) <= halves[1] and scored


class TestChoice:
    @SEARCHES
    @SPACES
    def test_result_is_the_best_of_the_last_scores(
        self,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        drive: Drive,
        search: type[PathSearch],
        space: str,
    ) -> None:
        stage = search_of(search, toy_data(n=64), space, validation_amount=16, epochs=1)
        with pytest.raises(RuntimeError, match="epoch 1 of 1"):
            stage.genotype()
        (metrics,) = drive(stage, recorder)
        scores = list(stage.scores.values())
        assert len(scores) == 4
        best = stage.genotype()
        assert stage.scores[best] == max(scores) == metrics["genotype_score"]
        assert list(stage.scores).index(best) == scores.index(max(scores))  # of ties the first
        assert metrics["genotype"] == str(best)
        stage.space.check(best)
        # the scores are accuracies on the same unvaried images, with the weights as they are now
        images = list(stage.validation(16).epoch(0))
        assert sum(len(y) for _, y in images) == 16
        for genotype, found in stage.scores.items():
            assert stage.score(genotype, images) == found

    @SEARCHES
    def test_comes_once_at_the_end_of_the_last_epoch(
        self,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        drive: Drive,
        search: type[PathSearch],
    ) -> None:
        stage = search_of(search, toy_data(), epochs=3)
        ends = drive(stage, recorder, 2)
        assert not stage.scores and all("genotype" not in end for end in ends)
        with pytest.raises(RuntimeError, match="epoch 3 of 3"):
            stage.genotype()
        (last,) = drive(stage, recorder)
        assert "genotype" in last
        about = {**last, "epoch": 2, "train_loss": 1.0, "train_accuracy": 0.5}
        assert "best" in stage.describe(about) and "3/3" in stage.describe(about)

    def test_validation_data(self, toy_data: Callable[..., Dataset]) -> None:
        """Mixed, the same ones always, unvaried, in whole batches; at most the half."""
        data = toy_data(n=66, classes=66)
        stage = search_of(RandomSharingSearch, data)
        half = stage.valid_feed.indices.tolist()
        everything = [y.tolist() for _, y in stage.validation().epoch(0)]
        assert list(map(len, everything)) == [8, 8, 8, 8]  # the incomplete one is left out
        flat = [label for labels in everything for label in labels]
        assert set(flat) < set(half) and flat != sorted(flat)
        for images, labels in ((20, flat[:16]), (3, flat[:3]), (1000, flat)):
            batches = list(stage.validation(images).epoch(0))
            assert [label for _, y in batches for label in y.tolist()] == labels
        x, y = next(iter(stage.validation(8).epoch(0)))
        expected = (data.train_images[y].float() / 255 - 0.5) / 0.3
        torch.testing.assert_close(x, expected)

    def test_scores_are_kept_in_order(self) -> None:
        random = torch.Generator().manual_seed(0)
        genotypes = [random_genotype(DARTS_SPACE, random) for _ in range(3)]
        scores = Scores(DARTS_SPACE, IMAGES.measure)
        scores.update(zip(genotypes, (0.2, 0.7, 0.7), strict=True))
        assert scores.best() == genotypes[1]
        again = Scores(DARTS_SPACE, IMAGES.measure)
        again[random_genotype(DARTS_SPACE, random)] = 1.0  # must not stay
        again.load_state_dict(saved(scores.state_dict()))
        assert list(again.items()) == list(scores.items())


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state that comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [entry for key in value for entry in (key, *flat(value[key]))]
    return [e for each in value for e in flat(each)] if isinstance(value, list | tuple) else [value]


def same(one: Any, other: Any) -> bool:
    entries, others = flat(one), flat(other)
    return len(entries) == len(others) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(entries, others, strict=True)
    )


class TestResume:
    @SEARCHES
    @pytest.mark.parametrize(
        "space", [pytest.param("darts", marks=pytest.mark.slow), "nasbench201"]
    )
    def test_is_exact(
        self,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        drive: Drive,
        search: type[PathSearch],
        space: str,
    ) -> None:
        """From within an epoch, from an epoch's end, and from the end: bit for bit, whatever was drawn elsewhere."""

        def fresh() -> PathSearch:
            return search_of(search, toy_data(), space)

        whole = fresh()
        ends = drive(whole, recorder)
        stage = fresh()
        found = drive(stage, recorder, 1)
        torch.manual_seed(7)  # must not matter
        stage, state = fresh(), saved(stage.state_dict())
        stage.load_state_dict(state)
        stage.train_step(next(stage.batches(1, 0)))
        stage.step += 1
        stage, state = fresh(), saved(stage.state_dict())
        stage.load_state_dict(state)
        found += drive(stage, recorder)
        assert found == ends
        assert same(stage.state_dict(), whole.state_dict())
        stage, state = fresh(), saved(stage.state_dict())
        stage.load_state_dict(state)
        assert stage.genotype() == whole.genotype() and stage.scores == whole.scores

    @SEARCHES
    def test_seed_decides(
        self,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        drive: Drive,
        search: type[PathSearch],
    ) -> None:
        stages = [search_of(search, toy_data(), epochs=1, seed=seed) for seed in (5, 5, 6)]
        for i, stage in enumerate(stages):
            torch.manual_seed(i)  # must not matter
            drive(stage, recorder)
        first, again, other = (stage.state_dict() for stage in stages)
        assert same(first, again)
        assert not same(first["network"], other["network"])
        assert list(stages[0].scores) != list(stages[2].scores)


class TestOptions:
    @SEARCHES
    def test_presets(self, search: type[PathSearch]) -> None:
        schema = METHODS[NAMES[search]].schema(DARTS_SPACE)
        assert set(schema.presets) == {"quick", "paper"}
        quick, paper = schema.compose("quick"), schema.compose("paper")
        assert schema.from_json(paper.to_json()) == paper
        assert (quick.data.data, quick.network.channels) == ("digits", 8)
        assert quick.optimizer.epochs == 15 and paper.data.data == "cifar10"
        assert quick.optimizer.min_learning_rate == 0.001

    @SEARCHES
    @pytest.mark.parametrize(
        ("name", "value"),
        [("s", 0), ("s", (2, 0)), ("s", ()), ("validation_amount", 0), ("s", 1.5)],
    )
    def test_ranges(self, search: type[PathSearch], name: str, value: Any) -> None:
        with pytest.raises(UserError, match=name):
            OPTIONS[search](**{name: value})

    @SEARCHES
    def test_s(self, toy_data: Callable[..., Dataset], search: type[PathSearch]) -> None:
        stage = search_of(search, toy_data(), "darts", s=(1, 2, 3, 1))
        for _, cell in stage.path().cells:
            assert [len(edges) for edges in cell.nodes] == [1, 2, 3, 1]
        with pytest.raises(UserError, match="s"):
            search_of(search, toy_data(), "darts", s=(1, 2))
