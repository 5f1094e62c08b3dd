"""All methods search chains: they find a network, go on exactly, or say in a line why they cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import isnas
from isnas import METHODS, Dataset, UserError
from isnas.runs.loop import drive as run_through
from isnas.searches.registry import create_search
from isnas.spaces.chain import CHAIN_SPACE, KIND, all_networks

OPTIONS = {"channels": 2, "features": 8, "batch_size": 8, "seed": 1, "evaluation_epochs": 0}
REFUSED = {"pc-darts": "on a part", "hm-nas": "any number of places"}
FEW = {
    "random": {"architectures": 3},
    "grid": {"architectures": 3},
    "evolution": {"architectures": 4, "population": 2},
    "generational": {"architectures": 4, "population": 2, "parents": 2},
    "reinforce": {"architectures": 3},
    "random-sharing": {"candidates": 4, "validation_amount": 8},
    "enas": {"final_samples": 3, "validation_amount": 8},
    "ista-one-stage": {"search_epochs": 2},
}
SEARCHES = [
    *((method, "quick") for method in METHODS if method not in REFUSED),
    ("ista-two-stage", "smoothed"),
]


def search_of(method: str, preset: str, data: Dataset, **changes: Any) -> Any:
    given = {"preset": preset, "epochs": 2, **OPTIONS, **FEW.get(method, {}), **changes}
    known = METHODS[method].schema(CHAIN_SPACE).fields
    options = {name: value for name, value in given.items() if name in known or name == "preset"}
    return create_search(method, CHAIN_SPACE, data, **options)


@pytest.mark.parametrize(("method", "preset"), SEARCHES)
def test_it_finds_a_network(method: str, preset: str, toy_data: Callable[..., Dataset]) -> None:
    search = search_of(method, preset, toy_data())
    for _ in run_through(search):
        pass
    assert str(search.genotype()) in all_networks()


@pytest.mark.parametrize("method", REFUSED)
def test_it_is_refused_in_a_line(method: str, toy_data: Callable[..., Dataset]) -> None:
    with pytest.raises(UserError) as refused:
        search_of(method, "quick", toy_data())
    assert f"{method} cannot search the space chain" in str(refused.value)
    assert REFUSED[method] in str(refused.value)


def test_partial_channels_are_refused(toy_data: Callable[..., Dataset]) -> None:
    with pytest.raises(UserError, match="have no partial"):
        search_of("darts-1", "quick", toy_data(), partial=2)


@pytest.mark.parametrize(
    ("method", "preset"), [("ista-two-stage", "smoothed"), ("ista-one-stage", "quick")]
)
def test_it_goes_on_exactly(method: str, preset: str, toy_data: Callable[..., Dataset]) -> None:
    data = toy_data()
    whole, begun = (search_of(method, preset, data, epochs=3) for _ in range(2))
    for _ in run_through(whole):
        pass
    for _, epoch in zip(run_through(begun), range(1), strict=False):
        assert epoch == 0
    again = search_of(method, preset, data, epochs=3)
    again.load_state_dict(copy.deepcopy(begun.state_dict()))
    for name, part in again.stateful().items():
        part.load_state_dict(copy.deepcopy(begun.stateful()[name].state_dict()))
    again.epoch = begun.epoch
    for _ in run_through(again):
        pass
    assert again.genotype() == whole.genotype()
    state = whole.network.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in again.network.state_dict().items())


def test_an_identity_is_a_candidate_like_the_others(toy_data: Callable[..., Dataset]) -> None:
    """At b = 0 the smoothed search tries the three operations of a layer equally often."""
    search = search_of("ista-two-stage", "smoothed", toy_data())
    n = 600
    noise = torch.randn(n, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.zeros(8, 3)
    for places in search.code.places_at(noise):
        assert [place.node for place in places[KIND]] == list(range(8))
        for place in places[KIND]:
            counts[place.node, place.operation] += 1
    deviation = (n * 2 / 9) ** 0.5
    assert ((counts - n / 3).abs() < 4.5 * deviation).all()


@pytest.mark.parametrize("coefficient", [0.3, 3.0])
def test_before_a_batch_norm_a_coefficient_has_no_effect(coefficient: float) -> None:
    """The published search learns little here, because the next layer's norm takes a positive factor back."""
    supernet = isnas.build_supernet(CHAIN_SPACE, channels=4, features=16).double()
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-12
    places = isnas.Genotype.parse("11111111").places()[KIND]
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)

    def scaled(layer: int) -> torch.Tensor:
        values = torch.ones(8, dtype=torch.float64)
        values[layer] = coefficient
        return supernet(x, {KIND: isnas.Coefficients(values, places)})

    plain = supernet(x, {KIND: isnas.Coefficients(torch.ones(8, dtype=torch.float64), places)})
    for layer in range(8):
        # the last layer of a stage, whose reader has no residual connection
        same = layer in (1, 4, 7)
        assert torch.allclose(scaled(layer), plain, rtol=1e-6, atol=1e-6) == same
