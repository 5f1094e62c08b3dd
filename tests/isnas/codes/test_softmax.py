"""Softmax weights are those of the definition, and the derivation takes what it says, ties included."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from making import edges_of

from isnas import DARTS_SPACE, DartsSpace, Genotype, Place, Space, UserError
from isnas.codes.softmax import SoftmaxCode
from isnas.networks.operations import BYPASS, bypassing
from isnas.spaces.nasbench201 import NASBENCH201_SPACE

SMALL = DartsSpace(primitives=("skip_connect", "avg_pool_3x3"), nodes=3, inputs=1, kinds=("a", "b"))
SPACES = [SMALL, DARTS_SPACE, NASBENCH201_SPACE]


def code_of(space: Space, seed: int, edge_weights: bool, *, s: int | tuple[int, ...] = 2):
    """A code in float64 with weights that differ much; every third one with many equal alphas."""
    code = SoftmaxCode(space, s, edge_weights=edge_weights).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in code.parameters():
            drawn = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.copy_(drawn.round() if seed % 3 == 0 else drawn)
    return code


def by_definition(code: SoftmaxCode, kind: str) -> dict[tuple[int, int], list[float]]:
    """The weights of every edge, by plain numbers: its operations in order, then none (before its edge's weight)."""
    i = code.space.kinds.index(kind)
    alpha = code.alpha[i].tolist()
    beta = code.beta[i].tolist() if code.beta else None
    found = {}
    for e, (node, source) in enumerate(edges_of(code)):
        exponentials = [math.exp(a) for a in alpha[e]]
        weights = [each / sum(exponentials) for each in exponentials]
        assert sum(weights) == pytest.approx(1)
        if beta is not None:
            of_node = [
                math.exp(b) for b, edge in zip(beta, edges_of(code), strict=True) if edge[0] == node
            ]
            share = math.exp(beta[e]) / sum(of_node)
            weights = [share * each for each in weights]
        found[node, source] = weights
    return found


class TestCoefficients:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("edge_weights", [False, True])
    def test_by_the_definition(self, space: Space, edge_weights: bool) -> None:
        code = code_of(space, 1, edge_weights)
        for kind, part in code.coefficients().items():
            expected = by_definition(code, kind)
            assert part.places == space.places()
            for place, value in zip(part.places, part.values.tolist(), strict=True):
                wanted = expected[place.node, place.source][place.operation]
                assert value == pytest.approx(wanted, rel=1e-12)

    @pytest.mark.parametrize("edge_weights", [False, True])
    def test_gradient_by_finite_differences(self, edge_weights: bool) -> None:
        """None has a gradient, too: its mass is taken from the others."""
        code = code_of(bypassing(SMALL), 2, edge_weights)
        parameters = list(code.parameters())

        def values(*_: torch.Tensor) -> torch.Tensor:
            return torch.cat([part.values for part in code.coefficients().values()])

        assert torch.autograd.gradcheck(values, parameters)
        total = sum(part.values.square().sum() for part in code.coefficients().values())
        total.backward()
        assert all(alpha.grad[:, -1].all() for alpha in code.alpha)

    @pytest.mark.parametrize("edge_weights", [False, True])
    def test_bypass_has_its_edges_weight(self, edge_weights: bool) -> None:
        space = bypassing(DARTS_SPACE)
        code = code_of(space, 4, edge_weights)
        plain = code_of(DARTS_SPACE, 4, edge_weights)
        for kind, part in code.coefficients().items():
            assert part.places == space.places()
            values = dict(zip(part.places, part.values.tolist(), strict=True))
            expected = by_definition(code, kind)
            for node, source in edges_of(code):
                share = sum(expected[node, source]) if edge_weights else 1.0
                assert values[Place(node, source, 7)] == pytest.approx(share)
            without = plain.coefficients()[kind]
            assert [values[place] for place in without.places] == without.values.tolist()
        assert code.genotype() == plain.genotype()

    def test_huge_weights_do_not_overflow(self) -> None:
        code = SoftmaxCode(SMALL, edge_weights=True)
        with torch.no_grad():
            for parameter in code.parameters():
                parameter.fill_(1e4)
        for part in code.coefficients().values():
            assert part.values.sum().item() == pytest.approx(3 * 2 / 3)


class TestStart:
    def test_is_small_and_drawn_from_the_seed(self) -> None:
        code, again, other = (SoftmaxCode(DARTS_SPACE, seed=seed) for seed in (1, 1, 2))
        drawn = torch.cat([alpha.flatten() for alpha in code.alpha])
        assert drawn.shape == (2 * 14 * 8,)
        assert drawn.std().item() == pytest.approx(1e-3, rel=0.15)
        assert all(map(torch.equal, code.alpha, again.alpha))
        assert not torch.equal(code.alpha[0], other.alpha[0])
        assert not torch.equal(code.alpha[0], code.alpha[1])

    def test_edge_weights_change_nothing_else(self) -> None:
        code, plain = (SoftmaxCode(DARTS_SPACE, edge_weights=e) for e in (True, False))
        assert all(map(torch.equal, code.alpha, plain.alpha))
        assert [beta.shape for beta in code.beta] == [(14,), (14,)] and not plain.beta

    def test_state_goes_round(self) -> None:
        code, other = (SoftmaxCode(SMALL, edge_weights=True, seed=seed) for seed in (1, 2))
        other.load_state_dict(code.state_dict())
        assert all(map(torch.equal, code.parameters(), other.parameters()))


def best_edges(weights: dict[tuple[int, int], list[float]], space: Space, s: list[int]):
    """Return the strongest of all sets of s edges of a node, of equally strong ones the first: by trying them all."""
    places = []
    for node in range(space.nodes):
        strength = {}
        for source in range(space.inputs + node):
            of_edge = weights[node, source][:-1]
            best = max(range(len(of_edge)), key=lambda k: (of_edge[k], -k))
            strength[Place(node, source, best)] = of_edge[best]
        sets = itertools.combinations(strength, min(s[node], len(strength)))
        # the weakest of a set's edges counts most: it must not be weaker than any edge left out
        ranked = max(sets, key=lambda edges: sorted(strength[e] for e in edges))
        places += ranked
    return tuple(places)


class TestDerivation:
    @pytest.mark.parametrize("space", [SMALL, DARTS_SPACE])
    @pytest.mark.parametrize("edge_weights", [False, True])
    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("s", [1, 2, 3])
    def test_by_trying_all_sets_of_edges(
        self, space: Space, edge_weights: bool, seed: int, s: int
    ) -> None:
        code = code_of(space, seed, edge_weights, s=s)
        columns = len(space.primitives)
        found = code.genotype().places(space)
        for i, kind in enumerate(space.kinds):
            # the numbers themselves, so that equal ones are equal; their test is above
            values = code.coefficients()[kind].values.view(-1, columns).tolist()
            weights = {edge: [*row, 0.0] for edge, row in zip(edges_of(code), values, strict=True)}
            expected = best_edges(weights, space, [s] * space.nodes)
            assert found[kind] == tuple(sorted(expected)), (kind, i)

    def test_of_equals_the_first_is_taken(self) -> None:
        code = code_of(DARTS_SPACE, 0, True)
        with torch.no_grad():
            for parameter in code.parameters():
                parameter.zero_()
        first = tuple(Place(node, source, 0) for node in range(4) for source in range(2))
        assert code.genotype() == Genotype.from_places(
            dict.fromkeys(DARTS_SPACE.kinds, first), DARTS_SPACE
        )

    def test_none_counts_in_the_softmax_only(self) -> None:
        """The strongest alpha is none's; it makes its edge weaker, and is never chosen."""
        code = code_of(SMALL, 0, False, s=1)
        with torch.no_grad():
            for alpha in code.alpha:
                alpha.zero_()
                alpha[:, 1] = 2.0
                alpha[2, 2] = 3.0  # node 1, state 1
                alpha[1, 2] = 4.0  # node 1, state 0
        cells = code.genotype()
        assert [edge.source for edge in itertools.chain(*cells["a"].nodes)] == [0, 1, 0]
        assert {edge.operation for edge in itertools.chain(*cells["a"].nodes)} == {"avg_pool_3x3"}

    def test_edge_weights_can_decide(self) -> None:
        code = code_of(SMALL, 0, True, s=1)
        with torch.no_grad():
            for alpha, beta in zip(code.alpha, code.beta, strict=True):
                alpha.zero_()
                beta.zero_()
                alpha[3:5, 0] = 1.0  # node 2: states 0 and 1 have the stronger operations
                beta[5] = 2.0  # and state 2 the stronger edge
        assert [edge.source for edge in code.genotype()["b"].nodes[2]] == [2]

    def test_nodes_with_fewer_edges_keep_all(self) -> None:
        code = code_of(SMALL, 1, False, s=3)
        sources = [[edge.source for edge in node] for node in code.genotype()["a"].nodes]
        assert sources == [[0], [0, 1], [0, 1, 2]]

    def test_number_of_edges_for_each_node(self) -> None:
        code = code_of(DARTS_SPACE, 1, False, s=(1, 3, 2, 4))
        for cell in (code.genotype()["normal"], code.genotype()["reduction"]):
            assert [len(node) for node in cell.nodes] == [1, 3, 2, 4]

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("edge_weights", [False, True])
    def test_one_operation_per_edge(self, seed: int, edge_weights: bool) -> None:
        """Every edge by itself: the strongest of all its operations and none."""
        code = code_of(NASBENCH201_SPACE, seed, edge_weights)
        expected = []
        for edge, alphas in zip(edges_of(code), code.alpha[0].tolist(), strict=True):
            best = max(range(len(alphas)), key=lambda k: (alphas[k], -k))
            if best < len(alphas) - 1:
                expected.append(Place(*edge, best))
        assert code.genotype().places(NASBENCH201_SPACE)["cell"] == tuple(expected)

    def test_every_edge_can_be_empty(self) -> None:
        code = code_of(NASBENCH201_SPACE, 1, True)
        with torch.no_grad():
            code.alpha[0][:, -1] = 9.0
        assert code.genotype()["cell"].nodes == ((), (), ())


class TestMistakes:
    @pytest.mark.parametrize("s", [0, (1, 2, 0, 2), -1])
    def test_s(self, s: int | tuple[int, ...]) -> None:
        with pytest.raises(UserError, match="s must be at least 1"):
            SoftmaxCode(DARTS_SPACE, s)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["alpha", "beta"])
    def test_diverged(self, value: float, name: str) -> None:
        code = SoftmaxCode(SMALL, edge_weights=True)
        with torch.no_grad():
            getattr(code, name)[1].flatten()[2] = value
        with pytest.raises(UserError, match="b cell are not finite: the search has diverged"):
            code.genotype()

    def test_bypass_must_be_last(self) -> None:
        with pytest.raises(ValueError, match="must be the last primitive"):
            SoftmaxCode(DartsSpace(primitives=(BYPASS, "skip_connect")))
