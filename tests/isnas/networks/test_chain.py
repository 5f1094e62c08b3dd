"""The network of NAS-Bench-Macro: its sizes, what its operations compute, folding and drop path."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from making import training_of
from torch import Tensor
from torch.nn import functional as F

from isnas import (
    Coefficients,
    Dataset,
    Genotype,
    SparseCode,
    SparseCodeOptions,
    UserError,
    build_network,
    build_supernet,
    count_multiply_adds,
    count_parameters,
    fold,
    load_network,
    save_network,
)
from isnas.networks.core import CellNetwork
from isnas.networks.operations import BatchNorm
from isnas.spaces.base import Place
from isnas.spaces.chain import (
    CHAIN_SPACE,
    FIRST_LAYERS,
    KIND,
    all_networks,
    parse_string,
)
from isnas.tabular.nasbench_macro import MacroTable

REAL = Path(__file__).parents[3] / "../shared/data/nas-bench-macro.csv.gz"
SMALL = {"channels": 4, "features": 16, "classes": 5}
WHOLE = ("00000000", "11111111", "22222222", "01221100", "20102201")


def by_hand(text: str) -> tuple[int, int]:
    """Return parameters and multiply-adds of a network of 32 channels for 32x32 pixels, in closed form."""
    c, side = 32, 32
    parameters = 27 * c + 2 * c
    adds = 27 * c * side**2
    for layer, digit in enumerate(text):
        c_in, side_in = c, side
        if first := layer in FIRST_LAYERS:
            c, side = 2 * c, side // 2
        if digit == "0":
            parameters += first * (c_in * c + 2 * c)
            adds += first * c_in * c * side**2
            continue
        expansion, kernel = {"1": (3, 3), "2": (6, 5)}[digit]
        wide = expansion * c_in
        parameters += c_in * wide + 2 * wide + kernel**2 * wide + 2 * wide + wide * c + 2 * c
        adds += c_in * wide * side_in**2 + (kernel**2 * wide + wide * c) * side**2
    return parameters + c * 1280 + 2560 + 12_810, adds + c * 1280 * side**2 + 12_800


@pytest.mark.parametrize("text", WHOLE)
def test_sizes_of_whole_networks(text: str) -> None:
    network = build_network(parse_string(text))
    found = count_parameters(network), count_multiply_adds(network, (32, 32))
    assert found == by_hand(text)


def test_sizes_of_all_networks_are_the_tables() -> None:
    """A layer adds the same to all networks: what it adds is counted once, and the sums are those of the table."""
    if not REAL.exists():
        pytest.skip("the table of the benchmark is not here")
    table = MacroTable.read(REAL)

    def sizes(text: str) -> np.ndarray:
        network = build_network(parse_string(text))
        return np.array([count_parameters(network), count_multiply_adds(network, (32, 32))])

    least = sizes("0" * 8)
    more = np.zeros((8, 3, 2), dtype=int)
    for layer in range(8):
        for k in (1, 2):
            more[layer, k] = sizes("0" * layer + str(k) + "0" * (7 - layer)) - least
    digits = np.array([[int(digit) for digit in text] for text in all_networks()])
    sums = least + more[np.arange(8), digits].sum(axis=1)
    assert np.array_equal(sums[:, 0], table.column("parameters"))
    assert np.array_equal(sums[:, 1], table.column("multiply_adds"))
    for text in WHOLE:
        assert sums[all_networks().index(text)].tolist() == list(by_hand(text))


def run_by_hand(network: CellNetwork, x: Tensor, coefficients: dict[Place, float]) -> Tensor:
    """Run a super-net in evaluation mode from its weights, convolution by convolution."""
    state = network.state_dict()

    def convolved(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)

    def normed(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = F.relu(normed("stem.1", convolved("stem.0", x)))
    for layer in range(8):
        stride = 2 if layer in FIRST_LAYERS else 1
        total = 0
        for place, c in coefficients.items():
            if place.node != layer:
                continue
            name = f"cells.0.nodes.operations.{CHAIN_SPACE.place_key(place)}"
            if place.operation == 0:
                out = x if stride == 1 else convolved(f"{name}.body", x, 2)
            else:
                out = F.relu(normed(f"{name}.body.1", convolved(f"{name}.body.0", x)))
                out = convolved(f"{name}.body.3", out, stride, out.shape[1])
                out = F.relu(normed(f"{name}.body.4", out))
                out = convolved(f"{name}.body.6", out)
                if stride == 1:
                    out = x + normed(f"{name}.body.7", out)
            if f"{name}.norm.weight" in state:
                out = normed(f"{name}.norm", out)
            total = total + c * out
        x = total
    x = F.relu(normed("head.1", convolved("head.0", x))).mean(dim=(2, 3))
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize("closing_norm", ["none", "all"])
def test_a_super_net_adds_its_scaled_operations_up(closing_norm: str, fill_norms) -> None:
    supernet = build_supernet(CHAIN_SPACE, closing_norm=closing_norm, **SMALL).double().eval()
    fill_norms(supernet, 0)
    random = torch.Generator().manual_seed(0)
    places = tuple(CHAIN_SPACE.places())
    values = torch.rand(len(places), generator=random, dtype=torch.float64)
    x = torch.randn(3, 3, 13, 16, generator=random, dtype=torch.float64)
    expected = run_by_hand(supernet, x, dict(zip(places, values.tolist(), strict=True)))
    found = supernet(x, {KIND: Coefficients(values, places)})
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_folding_is_exact(training: bool, fill_norms) -> None:
    supernet = build_supernet(CHAIN_SPACE, closing_norm="all", **SMALL).double()
    fill_norms(supernet, 1)
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    seen = set()
    for seed in range(4):
        code = SparseCode(CHAIN_SPACE, SparseCodeOptions(init_scale=1.0), seed=seed).double()
        seen |= set(str(code.genotype()))
        supernet.train(training)
        before = copy.deepcopy(supernet.state_dict())
        folded = fold(supernet, code.coefficients())
        expected = supernet(x, code.coefficients())
        supernet.load_state_dict(before)
        torch.testing.assert_close(folded(x), expected, rtol=1e-10, atol=1e-10)
        assert Genotype.of(folded) == code.genotype()
    assert seen == {"0", "1", "2"}


def test_only_a_super_net_whose_operations_are_closed_is_folded() -> None:
    supernet = build_supernet(CHAIN_SPACE, **SMALL)
    with pytest.raises(UserError, match="closing_norm"):
        fold(supernet, SparseCode(CHAIN_SPACE, SparseCodeOptions()).coefficients())


def test_identities_behind_the_first_of_a_stage_may_change_places() -> None:
    first = build_network(parse_string("00001002"), **SMALL).eval()
    second = build_network(parse_string("00010020"), **SMALL).eval()
    moved = {
        name.replace("layer4_mb3", "layer3_mb3").replace("layer7_mb6", "layer6_mb6"): value
        for name, value in first.state_dict().items()
    }
    second.load_state_dict(moved)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(first(x), second(x))


def test_drop_path_silences_the_bodies_of_residual_blocks_alone() -> None:
    network = build_network(parse_string("11111101"), **SMALL).eval()
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(network(x, drop_path_mask=torch.ones(8, 4)), network(x))
    silenced = network(x, drop_path_mask=torch.zeros(8, 4))
    # what is left: the blocks that change the shape
    left = build_network(parse_string("10100100"), **SMALL).eval()
    left.load_state_dict(
        {name: value for name, value in network.state_dict().items() if name in left.state_dict()}
    )
    torch.testing.assert_close(silenced, left(x))


def test_a_network_comes_back_and_trains(tmp_path: Path, toy_data) -> None:
    data: Dataset = toy_data()
    training = training_of(
        parse_string("01220102"), data, channels=2, features=8, batch_size=16, drop_path=0.2
    )
    training.epoch = 1
    before = training.network.classifier.weight.detach().clone()
    for batch in training.batches(1, 0):
        training.train_step(batch)
    network = training.network.eval()
    assert not torch.equal(network.classifier.weight, before)
    save_network(network, tmp_path / "network.pt")
    again = load_network(tmp_path / "network.pt")
    x = torch.randn(2, 1, 8, 8)
    # the layout in memory is another
    torch.testing.assert_close(again(x), network(x))
    assert str(Genotype.of(again)) == "01220102"


@pytest.mark.parametrize("side", [1, 5, 8])
def test_small_and_odd_images_pass(side: int) -> None:
    network = build_network(parse_string("01221100"), **SMALL).eval()
    assert network(torch.randn(2, 3, side, side)).shape == (2, 5)


def test_there_are_no_partial_channels_and_no_auxiliary_head(toy_data) -> None:
    with pytest.raises(UserError, match="no auxiliary"):
        training_of(
            parse_string("01220102"),
            toy_data(),
            channels=2,
            features=8,
            batch_size=16,
            auxiliary_weight=0.4,
        )


def test_all_norms_can_be_synchronised() -> None:
    supernet = build_supernet(CHAIN_SPACE, closing_norm="all", **SMALL)
    norms = [m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(isinstance(norm, BatchNorm) for norm in norms)
