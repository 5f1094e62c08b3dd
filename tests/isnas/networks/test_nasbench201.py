"""The network of NAS-Bench-201, and the super-net, code and folding in its space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from making import build_nasbench201_network, build_nasbench201_supernet, random_genotype

from isnas import (
    SparseCode,
    SparseCodeOptions,
    UserError,
    count_multiply_adds,
    count_parameters,
    fold,
)
from isnas.networks.nasbench201 import NASBench201Network, NASBench201Options, ResidualBlock
from isnas.spaces.nasbench201 import NASBENCH201_SPACE, parse_string, to_string

# the node's edges decide: at most one operation each
CODE = SparseCodeOptions(m=(3, 5, 7), s=(1, 2, 3), init_scale=0.3)


def all_edges(name: str) -> str:
    return "+".join("".join(f"|{name}~{i}" for i in range(n)) + "|" for n in (1, 2, 3))


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_shortcut_pools_as_the_benchmarks(size: int) -> None:
    """Windows over an odd edge are means of the pixels that are there, forwards and backwards, bit for bit."""
    pool = ResidualBlock(3, 6).shortcut[0]
    found = []
    for module in (pool, torch.nn.AvgPool2d(2, ceil_mode=True)):  # the latter as published
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        out = module(x.requires_grad_())
        out.square().sum().backward()
        found.append((out, x.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_published_size() -> None:
    """The benchmark's largest network has 1.531546 M parameters and 220.12 M multiply-adds, its smallest 0.073306 M."""
    largest = build_nasbench201_network(parse_string(all_edges("nor_conv_3x3")))
    assert count_parameters(largest) == 1_531_546
    assert count_multiply_adds(largest, (32, 32)) / 1e6 == pytest.approx(220.12, abs=0.005)
    smallest = build_nasbench201_network(parse_string(all_edges("skip_connect")))
    assert count_parameters(smallest) == 73_306


def test_cell_without_operations_runs() -> None:
    network = build_nasbench201_network(
        parse_string(all_edges("none")), NASBench201Options(channels=2, cells=1)
    )
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(network.eval()(x)[0], network(2 * x)[1])


@pytest.mark.parametrize("rule", ["truncate", "path", "best_subset"])
@pytest.mark.parametrize("reencode", [False, True])
def test_recovery_takes_one_operation_per_edge(rule: Any, reencode: bool) -> None:
    for seed in range(10):
        options = SparseCodeOptions(**{**vars(CODE), "rule": rule, "reencode": reencode})
        code = SparseCode(NASBENCH201_SPACE, options, seed=seed)
        for support, places in zip(
            code.support, [choice.candidates for choice in code.choices], strict=True
        ):
            sources = [places[i].source for i in support]
            assert len(set(sources)) == len(sources) == len({p.source for p in places})
        to_string(code.genotype())  # which refuses two operations on an edge


def test_fewer_operations_than_edges_leave_edges_empty() -> None:
    options = SparseCodeOptions(**{**vars(CODE), "s": (1, 1, 2)})
    text = to_string(SparseCode(NASBENCH201_SPACE, options).genotype())
    assert text.count("none") == 2


def test_more_operations_than_edges_are_refused() -> None:
    options = SparseCodeOptions(**{**vars(CODE), "s": (1, 2, 4)})
    with pytest.raises(UserError, match="at most the 3 edges of node 2, got 4"):
        SparseCode(NASBENCH201_SPACE, options)


@pytest.mark.parametrize("training", [False, True])
def test_folding_is_exact(training: bool) -> None:
    supernet = build_nasbench201_supernet(
        NASBench201Options(channels=4, cells=2, closing_norm="all"), seed=1
    ).double()
    code = SparseCode(NASBENCH201_SPACE, CODE, seed=1).double()
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    supernet.train(training)
    folded = fold(supernet, code.coefficients())
    assert isinstance(folded, NASBench201Network)
    expected = supernet(x, code.coefficients())
    torch.testing.assert_close(folded(x), expected, rtol=1e-12, atol=1e-12)


def test_coefficients_equal_scaled_outputs_in_the_discrete_network() -> None:
    """Run one cell by hand: each node is the sum of its scaled operations."""
    supernet = build_nasbench201_supernet(
        NASBench201Options(channels=3, cells=1, closing_norm="all")
    ).double()
    supernet.eval()
    code = SparseCode(NASBENCH201_SPACE, CODE).double()
    coefficients = code.coefficients()["cell"]
    cell = supernet.cells[0]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    states = [x, 0, 0, 0]
    for place, c in sorted(zip(coefficients.places, coefficients.values, strict=True)):
        (operation,) = supernet.operations_at("cell", [place])[:1]
        states[place.node + 1] = states[place.node + 1] + c * operation(states[place.source])
    incoming = supernet.incoming(code.coefficients())[0]
    torch.testing.assert_close(cell(x, incoming), states[3], rtol=1e-12, atol=1e-12)


def test_random_genotypes_have_one_operation_per_edge_each_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    names = NASBENCH201_SPACE.primitives
    counts = dict.fromkeys(names, 0)
    n = 600
    for _ in range(n):
        genotype = random_genotype(NASBENCH201_SPACE, generator, (1, 2, 3))
        text = to_string(genotype)
        assert "none" not in text
        for name in names:
            counts[name] += text.count(f"|{name}~")
    expected = 6 * n / len(names)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 16.3  # 99.9 % of chi-square with 3 degrees of freedom
