"""Limits: what texts mean, that nothing beyond them is drawn, trained or found, and that drawing stays even."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

import isnas
from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, Genotype, UserError
from isnas.codes.choices import Choices
from isnas.comparison.compare import compare
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.registry import build_network
from isnas.searches.limits import LimitedChoices, Limits, bounds_of, choices_within
from isnas.searches.registry import METHODS, create_search

KEEPING = [
    name for name, method in METHODS.items() if "limit" in method.schema(NASBENCH201_SPACE).fields
]
SHAPE = {"channels": 2, "cells": 1}
TINY = {**SHAPE, "batch_size": 8}
SEARCHING = {
    "random": {"architectures": 3, "epochs": 1},
    "grid": {"architectures": 40, "epochs": 1},
    "evolution": {"architectures": 6, "population": 3, "epochs": 1},
    "generational": {"architectures": 6, "population": 3, "parents": 2, "children": 2, "epochs": 1},
    "reinforce": {"architectures": 12, "epochs": 1},
    "successive-halving": {"architectures": 3, "epochs": 2, "eta": 2},
    "hyperband": {"architectures": 3, "epochs": 2, "eta": 2},
    "asha": {"architectures": 3, "epochs": 2, "eta": 2},
    "random-sharing": {"candidates": 5, "epochs": 1},
}


def sizes_of(genotype: Genotype, **shape: Any) -> tuple[int, int]:
    """Return parameters and multiply-adds of a built network on the toy images."""
    network = build_network(genotype, **{**SHAPE, "classes": 4, "in_channels": 1, **shape})
    return count_parameters(network), count_multiply_adds(network, (8, 8))


@cache
def median_size() -> int:
    random = torch.Generator().manual_seed(0)
    drawn = [Choices(NASBENCH201_SPACE).random(random) for _ in range(101)]
    shape = {**SHAPE, "classes": 4, "in_channels": 1}
    return sorted(count_parameters(build_network(genotype, **shape)) for genotype in drawn)[50]


def test_texts() -> None:
    assert bounds_of(()) == {}
    texts = ("parameters=3.7M", "multiply-adds=600k")
    assert bounds_of(texts) == {"parameters": 3_700_000, "multiply-adds": 600_000}
    assert bounds_of(("multiply-adds=2G",)) == {"multiply-adds": 2_000_000_000}
    assert bounds_of(("parameters=17",)) == {"parameters": 17}
    for text in ("parameters", "parameters=", "parameters=3m", "parameters=-1", "parameter=3M"):
        with pytest.raises(UserError, match="limit must be parameters=AMOUNT or multiply-adds="):
            bounds_of((text,))
    with pytest.raises(UserError, match="parameters is given twice"):
        bounds_of(("parameters=1M", "parameters=2M"))


class TestChoices:
    def limits(self, data: Dataset, *texts: str, **changes: Any) -> Limits:
        search = create_search("random", NASBENCH201_SPACE, data, limit=texts, **TINY)
        return Limits(replace(search.setting, **changes))

    def test_each_architecture_within_is_drawn_alike(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        """With limits that leave a few of 15,625, counted by building all that are small enough to be among them."""
        data = toy_data(32)
        least = sizes_of(next(Choices(NASBENCH201_SPACE).all()))[0]
        choices = LimitedChoices(self.limits(data, f"parameters={least + 60}"), None)
        within = list(choices.all())
        assert 5 < len(within) < 2000
        few = within[:: max(1, len(within) // 20)]
        assert all(sizes_of(genotype)[0] <= least + 60 for genotype in few)
        counted = sum(
            sizes_of(genotype)[0] <= least + 60
            for i, genotype in enumerate(Choices(NASBENCH201_SPACE).all())
            if i % 125 == 0
        )
        allowed = {str(genotype) for genotype in within}
        every = enumerate(Choices(NASBENCH201_SPACE).all())
        assert counted == sum(str(genotype) in allowed for i, genotype in every if i % 125 == 0)
        random = torch.Generator().manual_seed(0)
        drawn = Counter(str(choices.random(random)) for _ in range(300))
        assert set(drawn) <= allowed
        assert max(drawn.values()) < 40

    def test_mutants_are_neighbours_within(self, toy_data: Callable[..., Dataset]) -> None:
        limits = self.limits(toy_data(32), f"parameters={median_size()}")
        choices, random = LimitedChoices(limits, None), torch.Generator().manual_seed(0)
        genotype = choices.random(random)
        for _ in range(20):
            child = choices.mutate(genotype, random)
            assert limits.allow(child)
            cells = [set(g["cell"].nodes[i]) for g in (genotype, child) for i in range(3)]
            assert sum(a != b for a, b in zip(cells[:3], cells[3:], strict=True)) == 1
            genotype = child

    def test_sizes_are_those_of_the_network_that_is_trained(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        data = toy_data(32)
        genotype = Choices(NASBENCH201_SPACE).random(torch.Generator().manual_seed(1))
        own = self.limits(data).sizes(genotype)
        assert tuple(own.values()) == sizes_of(genotype)
        target = create_search(
            "random", NASBENCH201_SPACE, data, **{**TINY, "channels": 6, "cells": 2}
        )
        other = self.limits(data, target=target.setting.options.network).sizes(genotype)
        assert tuple(other.values()) == sizes_of(genotype, channels=6, cells=2)

    def test_what_cannot_be_is_said(self, toy_data: Callable[..., Dataset]) -> None:
        with pytest.raises(UserError, match="none of 10,000 random architectures"):
            create_search(
                "random", NASBENCH201_SPACE, toy_data(32), limit=("parameters=5",), **TINY
            )
        with pytest.raises(UserError, match="no architecture that grid search asks for"):
            create_search("grid", NASBENCH201_SPACE, toy_data(32), limit=("parameters=5",), **TINY)

    def test_without_limits_nothing_changes(self, toy_data: Callable[..., Dataset]) -> None:
        search = create_search("random", NASBENCH201_SPACE, toy_data(32), **TINY)
        assert type(choices_within(search.setting, None)) is Choices


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_found_and_trained_is_within(
    name: str, toy_data: Callable[..., Dataset], drive: Callable[..., Any], recorder: Any
) -> None:
    """By built networks; a search that goes on from its state asks for the same."""
    bound = median_size()
    options = {
        **TINY,
        "limit": (f"parameters={bound}",),
        **SEARCHING.get(name, {"architectures": 12}),
    }
    data = toy_data(32)
    search = create_search(name, NASBENCH201_SPACE, data, **options)
    drive(search, recorder, 2)
    other = create_search(name, NASBENCH201_SPACE, data, **options)
    other.load_state_dict(search.state_dict())
    for each in (search, other):
        drive(each, recorder)
    assert search.genotype() == other.genotype()
    trained = [entry[0] for entry in getattr(search, "asked", []) if isinstance(entry, tuple)]
    for genotype in [search.genotype(), *trained]:
        assert sizes_of(genotype)[0] <= bound


def test_methods_that_keep_no_limit_are_named(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="limit: darts-1 cannot keep one: leave them out"):
        compare(out=tmp_path / "new", methods=("darts-1", "random"), limit=("parameters=1M",))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="there is no option limit"):
        isnas.search_options("darts-1", DARTS_SPACE, limit=("parameters=1M",))
