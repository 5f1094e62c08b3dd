"""GDAS: one operation an edge runs, and its gradient is that of the relaxed softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, Space
from isnas.runs.loop import drive as run_through
from isnas.searches.gdas import GdasSearch
from isnas.searches.registry import create_search

SPACES = (DARTS_SPACE, NASBENCH201_SPACE)
OPTIONS = {
    "channels": 2,
    "cells": 3,
    "batch_size": 8,
    "epochs": 4,
    "seed": 1,
    "evaluation_epochs": 0,
}


def search_of(data: Dataset, space: Space, **changes: Any) -> GdasSearch:
    return create_search("gdas", space, data, **{**OPTIONS, **changes})


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_sample_is_one_operation_an_edge(space: Space, toy_data: Callable[..., Dataset]) -> None:
    search = search_of(toy_data(), space)
    for draw in range(20):
        for kind, found in search.sample("test", draw).items():
            assert torch.equal(found.values, torch.ones_like(found.values))
            edges = [(place.node, place.source) for place in found.places]
            assert len(set(edges)) == len(edges), kind


def test_samples_follow_the_softmax(toy_data: Callable[..., Dataset]) -> None:
    """The argmax of logits with Gumbel noise is drawn from their softmax, whatever the temperature."""
    search = search_of(toy_data(), NASBENCH201_SPACE)
    with torch.no_grad():
        (alpha,) = search.code.alpha
        alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0)))
    p = alpha.detach().softmax(1)[0]
    row = search.code.rows[0]
    counts = torch.zeros(len(p))
    for draw in range(2000):
        places = search.sample("many", draw)["cell"].places
        chosen = [k for k, place in enumerate(row) if place in places]
        counts[chosen[0] if chosen else len(row)] += 1
    deviation = (p * (1 - p) / 2000).sqrt()
    assert ((counts / 2000 - p).abs() < 4 * deviation).all()


def test_the_gradient_is_that_of_the_softmax(toy_data: Callable[..., Dataset]) -> None:
    """The sum over edges of the chosen p_k, by finite differences of the relaxed weights."""
    search = search_of(toy_data(), NASBENCH201_SPACE)
    search.epoch = 2
    found = search.sample("one")["cell"]
    (alpha,) = search.code.alpha
    gradient = torch.autograd.grad(found.values.sum(), alpha)[0]
    assert gradient.abs().sum() > 0
    # of a softmax, whose entries sum to 1 whatever alpha is
    assert torch.allclose(gradient.sum(1), torch.zeros(len(alpha)), atol=1e-6)


def test_temperature_falls_from_first_to_last(toy_data: Callable[..., Dataset]) -> None:
    search = search_of(toy_data(), NASBENCH201_SPACE)
    found = []
    for epoch in range(4):
        search.epoch = epoch
        found.append(search.temperature)
    assert found == pytest.approx([10.0, 6.7, 3.4, 0.1])


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_it_goes_on_exactly(space: Space, toy_data: Callable[..., Dataset]) -> None:
    data = toy_data()
    whole = search_of(data, space)
    start = [alpha.detach().clone() for alpha in whole.code.alpha]
    list(run_through(whole))
    assert not all(torch.equal(x, y) for x, y in zip(start, whole.code.alpha, strict=True))
    begun = search_of(data, space)
    epochs = run_through(begun)
    next(epochs), next(epochs)
    again = search_of(data, space)
    again.load_state_dict(begun.state_dict())
    list(run_through(again))
    assert again.genotype() == whole.genotype()
    for x, y in zip(again.code.alpha, whole.code.alpha, strict=True):
        assert torch.equal(x, y)
