"""The two-stage search with finalists: who they are, who wins, and that it goes on as it would have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import IMAGES, training_of

import isnas
from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, Genotype, UserError, spaces
from isnas.codes.sparse import SparseCode, SparseCodeOptions
from isnas.runtime.randomness import generator
from isnas.searches.finalists import FinalistsSearch
from isnas.searches.registry import create_search, search_options
from isnas.spaces.nasbench201 import to_string

Data = Callable[..., Dataset]
Drive = Callable[..., Any]

TINY = {"channels": 2, "cells": 1, "batch_size": 8, "epochs": 2, "preset": "smoothed"}
OPTIONS = {
    **TINY,
    "finalists": 5,
    "finalist_epochs": 4,
    "finalist_eta": 2,
    "evaluation_channels": 4,
    "evaluation_cells": 2,
    "evaluation_batch_size": 8,
    "evaluation_learning_rate": 0.1,
}


def search_on(data: Dataset, **changes: Any) -> FinalistsSearch:
    return create_search("ista-finalists", NASBENCH201_SPACE, data, **{**OPTIONS, **changes})


def test_the_first_search_is_the_two_stage_search(
    toy_data: Data, drive: Drive, recorder: Any
) -> None:
    """Bit for bit: codes, weights and what is found, which is the first of the finalists."""
    search, alone = (
        search_on(toy_data(32)),
        create_search("ista-two-stage", NASBENCH201_SPACE, toy_data(32), **TINY),
    )
    drive(search, recorder)
    drive(alone, recorder)
    for one, two in zip(search.code.b, alone.code.b, strict=True):
        assert torch.equal(one, two)
    for name, value in alone.network.state_dict().items():
        assert torch.equal(search.first.network.state_dict()[name], value)
    assert search.finals.finalists[0] == alone.genotype()
    assert search.score(alone.genotype()) == alone.score(alone.genotype())


def test_finalists_are_recovered_from_around_the_code(
    toy_data: Data, drive: Drive, recorder: Any
) -> None:
    """They are the first different ones, each of b + sigma e for an e that is drawn here again."""
    search = search_on(toy_data(32), finalist_spread=0.3)
    drive(search, recorder)
    lengths = [len(b) for b in search.code.b]
    expected = [search.code.genotype()]
    start = [b.detach().clone() for b in search.code.b]
    for draw in range(1000):
        e = torch.randn(
            (1, sum(lengths)), generator=generator(0, "finalist", draw), dtype=torch.float64
        )
        with torch.no_grad():
            for b, at, part in zip(search.code.b, start, e[0].split(lengths), strict=True):
                b.copy_(at + 0.3 * part)
        search.code.recover()
        if search.code.genotype() not in expected:
            expected.append(search.code.genotype())
        if len(expected) == 5:
            break
    assert list(search.finals.finalists) == expected


def test_finalists_may_be_exchanges(toy_data: Data, drive: Drive, recorder: Any) -> None:
    """By brute force: all cells that differ from the found one in an edge, those first that cost the code least."""
    search = search_on(
        toy_data(32), finalists=19, finalist_epochs=1, finalist_others="exchanged", epochs=1
    )
    drive(search, recorder)
    code, found = search.code, search.code.genotype()
    effects = {
        place: float(b.detach().double() @ A[:, k])
        for choice, b, A in zip(code.choices, code.b, code.A, strict=True)
        for k, place in enumerate(choice.candidates)
    }

    def worth(genotype: Genotype) -> float:
        return sum(effects[place] for place in genotype.places(NASBENCH201_SPACE)["cell"])

    def edges(genotype: Genotype) -> set[str]:
        return set(to_string(genotype).strip("|").replace("|+|", "|").split("|"))

    first, *others = search.finals.finalists
    assert first == found and len(set(others)) == 18
    assert all(len(edges(found) - edges(other)) == 1 for other in others)
    worths = [worth(other) for other in others]
    assert worths == pytest.approx(sorted(worths, reverse=True)) and worths[0] > worths[-1]


@pytest.mark.parametrize("name", ["darts", "nasbench201", "chain", "macro", "recurrent"])
def test_exchanges_are_architectures(name: str) -> None:
    """As many as places can be exchanged, each with another place instead of one."""
    space = spaces.get(name)
    code = SparseCode(space, SparseCodeOptions(init_scale=1.0))
    found = {kind: set(places) for kind, places in code.places.items()}
    exchanges = code.exchanges()
    number = 0
    for choice, support in zip(space.choices, code.support, strict=True):
        if choice.yes_or_no:
            number += len(support) * (len(choice.candidates) - len(support))
        elif choice.groups is not None:  # an operation of the same edge, for all edges are there
            assert len(support) == len(choice.members)
            number += len(choice.candidates) - len(support)
        else:  # of the same edge, or of one that has none
            sources = [choice.candidates[k].source for k in support]
            number += sum(
                k not in support and (place.source == source or place.source not in sources)
                for source in sources
                for k, place in enumerate(choice.candidates)
            )
    assert len(exchanges) == number > 0
    for places in exchanges:
        space.check(Genotype.from_places(places, space))
        gone = [place for kind in found for place in found[kind] - set(places[kind])]
        come = [place for kind in found for place in set(places[kind]) - found[kind]]
        assert len(gone) == len(come) == 1 and gone[0].node == come[0].node


def test_exchanges_keep_the_limits(toy_data: Data, drive: Drive, recorder: Any) -> None:
    search = search_on(
        toy_data(32),
        finalists=19,
        finalist_others="exchanged",
        epochs=1,
        limit=("parameters=1400",),
    )
    drive(search, recorder)
    assert 1 < len(search.finals.finalists) < 19
    assert all(search.limits.allow(each) for each in search.finals.finalists)


def test_the_best_of_those_trained_longest_is_found(
    toy_data: Data, drive: Drive, recorder: Any
) -> None:
    """Finalists are trained as what is found will be, and judged by the other part of the data."""
    data = toy_data(32)
    search = search_on(data)
    drive(search, recorder)
    recipe = {
        name.removeprefix("evaluation_"): value
        for name, value in OPTIONS.items()
        if name.startswith("evaluation_")
    }

    def value_after(genotype: Genotype, epochs: int) -> float:
        alone = training_of(genotype, data, **recipe, epochs=4)
        alone = type(alone)(alone.network, alone.recipe, IMAGES, data, alone.device, part="weights")
        while alone.epoch < epochs:
            for batch in alone.batches(alone.epoch, 0):
                alone.train_step(batch)
                alone.step += 1
            alone.epoch, alone.step = alone.epoch + 1, 0
        feed = IMAGES.scoring_feed(
            data, search.options.optimizer, seed=0, device=torch.device("cpu"), whole=True
        )
        return IMAGES.test(alone.network, feed)["test_accuracy"]

    finalists = search.finals.finalists
    living = list(finalists)
    trained, judged = 0, []
    for level, until in enumerate((1, 2, 4), 1):
        values = [value_after(genotype, until) for genotype in living]
        judged += [
            (finalists.index(g), until, value) for g, value in zip(living, values, strict=True)
        ]
        trained += len(living) * (until - until // 2)
        order = sorted(range(len(living)), key=lambda i: -values[i])
        living = [living[i] for i in sorted(order[: max(1, 5 // 2**level)])]
    assert [(job.child, job.until, value) for job, value in search.finals.judged] == judged
    assert search.genotype() == living[0]
    assert search.epochs == search.epoch == 2 + trained


def test_going_on_is_the_same(
    toy_data: Data, recorder: Any, take_steps: Callable[..., Any]
) -> None:
    """Bit for bit, broken off after every third step."""
    data = toy_data(32)

    def losses_of(search: FinalistsSearch, number: int) -> list[float]:
        return [float(m["train_loss"]) for m in take_steps(search, recorder, number)]

    whole = search_on(data)
    losses = losses_of(whole, 10**6)
    search, found = search_on(data), []
    while search.epoch < search.epochs:
        found += losses_of(search, 3)
        other = search_on(data)
        other.load_state_dict(search.state_dict())
        search = other
    assert found == losses
    assert search.finals.judged == whole.finals.judged
    assert search.genotype() == whole.genotype()


def test_one_finalist_is_the_two_stage_search(toy_data: Data, drive: Drive, recorder: Any) -> None:
    search = search_on(toy_data(32), finalists=1)
    drive(search, recorder)
    assert search.finals is None
    assert search.epochs == search.epoch == 2
    assert search.genotype() == search.code.genotype()


def test_without_a_training_that_follows_the_recipe_is_the_search_s_own(
    toy_data: Data, drive: Drive, recorder: Any
) -> None:
    search = search_on(toy_data(32), evaluation_epochs=0)
    drive(search, recorder)
    network = search.finals.child.network
    assert (network.options.channels, network.options.cells) == (2, 1)
    assert search.finals.options.optimizer.batch_size == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("finalists", 0),
        ("finalist_epochs", 0),
        ("finalist_eta", 1),
        ("finalist_spread", 0.0),
        ("finalist_spread", math.nan),
        ("finalist_others", "neighbours"),
        ("pairs", 0),
    ],
)
def test_out_of_range_is_one_clear_error(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"\b{name}\b"):
        search_options("ista-finalists", DARTS_SPACE, **{name: value})


def test_exchanges_have_no_spread() -> None:
    with pytest.raises(UserError, match="finalist_spread is for finalist_others recovered"):
        search_options(
            "ista-finalists", DARTS_SPACE, finalist_others="exchanged", finalist_spread=1.0
        )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_others_are_as_far_from_the_code_as_it_is_large(toy_data: Data, scale: float) -> None:
    """A code and its multiple have the same finalists; one of zeros has some, too."""
    search = search_on(toy_data(32))

    def drawn_with(factor: float) -> tuple[Genotype, ...]:
        with torch.no_grad():
            for b, at in zip(search.code.b, values, strict=True):
                b.copy_(factor * at)
        search.code.recover()
        return search._chosen()

    random = torch.Generator().manual_seed(0)
    values = [torch.randn(len(b), generator=random) for b in search.code.b]
    found = drawn_with(scale)
    assert found == drawn_with(4 * scale) and len(set(found)) == 5
    assert len(set(drawn_with(0.0))) == 5


@pytest.mark.parametrize("epochs", [1, 2, 5, 11, 40])
def test_a_budget_is_shared(epochs: int) -> None:
    """Of so many epochs at most half are of finalists, of which there are as many as that pays for."""
    options = search_options("ista-finalists", DARTS_SPACE, finalists=9, finalist_epochs=3)
    changes = FinalistsSearch.scheduled(options, epochs)
    # all once, a third of them to the third epoch
    trainings = {n: 0 if n == 1 else n + 2 * max(1, n // 3) for n in range(1, 10)}
    number = max(n for n, trained in trainings.items() if trained <= epochs / 2)
    assert changes == {"epochs": epochs - trainings[number], "finalists": number}


def test_a_run_says_what_goes_on_and_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {**TINY, "batch_size": 128, "finalists": 3, "finalist_epochs": 2, "finalist_eta": 2}
    whole = isnas.search(
        "ista-finalists", "nasbench201", out=out, evaluation_epochs=0, device="cpu", **options
    )
    phases = isnas.RunRecord(out).epochs("search")["phase"]
    assert list(phases) == ["search"] * 2 + ["finalists"] * 4
    assert isnas.resume(out).genotype == whole.genotype
