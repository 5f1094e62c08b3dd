"""Warm starts: a candidate's effect on a score, and codes whose first recovery is the architecture it likes best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, Genotype, Space, UserError, build_network
from isnas.codes.fair import fair_path
from isnas.codes.sparse import SparseCodeOptions
from isnas.networks.counting import count_parameters
from isnas.searches.base import SupernetSearch
from isnas.searches.registry import create_search
from isnas.searches.warm_start import effects
from isnas.spaces.chain import CHAIN_SPACE
from isnas.spaces.macro import MacroSpace
from isnas.spaces.nasbench201 import all_cells
from isnas.tasks.language import load_text

SPACES = (DARTS_SPACE, NASBENCH201_SPACE, CHAIN_SPACE, MacroSpace(layers=4))


def search_of(data: Dataset, method: str = "ista-two-stage", **changes: Any) -> SupernetSearch:
    options = {"channels": 2, "cells": 1, "batch_size": 8, "seed": 5, **changes}
    return create_search(method, NASBENCH201_SPACE, data, **options)


def parameters_of(genotype: Genotype) -> int:
    return count_parameters(build_network(genotype, channels=2, cells=1))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_effects_of_a_sum_are_told_exactly(space: Space) -> None:
    """But for a constant, as between architectures that were not seen; candidates of a fixed number balance."""
    s = SparseCodeOptions().places(space)
    random = torch.Generator().manual_seed(1)
    values = [torch.randn(len(c.candidates), generator=random).tolist() for c in space.choices]

    def total(path: Any, values: Any) -> float:
        return sum(
            value
            for choice, of_choice in zip(space.choices, values, strict=True)
            for place, value in zip(choice.candidates, of_choice, strict=True)
            if place in path[choice.kind]
        )

    seen = []

    def score(path: Any) -> float:
        seen.append(total(path, values))
        return seen[-1]

    found = effects(space, s, score, seed=3)
    unit = float(torch.tensor(seen, dtype=torch.float64).std())
    others = [fair_path(space, s, 4, step) for step in range(50)]
    differences = [total(path, values) - unit * total(path, found) for path in others]
    assert max(differences) - min(differences) < 1e-6
    assert all(abs(float(each.sum())) < 1e-9 for each in found)


@pytest.mark.parametrize("method", ["ista-two-stage", "ista-one-stage"])
@pytest.mark.parametrize("score", ["parameters", "multiply-adds"])
def test_search_begins_with_the_largest_cell(
    toy_data: Callable[..., Dataset], method: str, score: str
) -> None:
    search = search_of(
        toy_data(64), method, preset="smoothed", warm_start=score, warm_start_length=0.3
    )
    cells = [Genotype.parse(cell) for cell in all_cells()[::61]]
    assert parameters_of(search.genotype()) >= max(map(parameters_of, cells))
    lengths = [float(b.detach().norm()) for b in search.code.b]
    assert lengths == pytest.approx([0.3] * 3, rel=1e-6)


def test_score_of_untrained_networks_leaves_the_super_net_as_it_was(
    toy_data: Callable[..., Dataset],
) -> None:
    data = toy_data(64)
    before, after = (search_of(data, warm_start=score) for score in ("none", "naswot"))
    for name, value in before.network.state_dict().items():
        assert torch.equal(value, after.network.state_dict()[name]), name
    assert before.genotype() != after.genotype()
    again = search_of(data, warm_start="naswot")
    assert again.genotype() == after.genotype()


def test_start_beyond_the_limits_is_taken_back(toy_data: Callable[..., Dataset]) -> None:
    def start(**changes: Any) -> float:
        search = search_of(toy_data(64), preset="smoothed", warm_start="parameters", **changes)
        return search.limits.sizes(search.genotype())["parameters"]

    largest = start()
    assert start(limit=(f"parameters={largest:g}",)) == largest
    assert start(limit=(f"parameters={largest - 1:g}",)) < largest


def test_score_that_networks_of_text_do_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one two three four\n" * 400)
    text = load_text(str(tmp_path / "words.txt"))
    with pytest.raises(UserError, match="naswot is a score of networks of images"):
        create_search("ista-two-stage", "recurrent", text, warm_start="naswot")
    search = create_search("ista-two-stage", "recurrent", text, warm_start="parameters", width=4)
    assert all(b.isfinite().all() for b in search.code.b)
