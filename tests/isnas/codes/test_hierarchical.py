"""HM-NAS's code: coefficients, masks and survivors by the definition, straight-through gradients by differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from making import build_supernet
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from isnas import DARTS_SPACE, Coefficients, DartsSpace, Place, Space
from isnas.codes.hierarchical import HierarchicalCode, WeightMasks, binary, operation_weights
from isnas.networks.darts import Network, NetworkOptions
from isnas.spaces.nasbench201 import NASBENCH201_SPACE

SMALL = DartsSpace(primitives=("skip_connect", "sep_conv_3x3", "max_pool_3x3"), nodes=2)
SPACES = [DARTS_SPACE, NASBENCH201_SPACE, SMALL]
THRESHOLD = 5e-3

Fill = Callable[[nn.Module, int], None]


def drawn_code(space: Space, seed: int = 0, on: float = 0.5) -> HierarchicalCode:
    """A code in float64 with large weights and masks on either side of the threshold, on with probability `on`."""
    code = HierarchicalCode(space, seed=seed).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (code.alpha, code.beta):
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        for mask in (code.edge_mask, code.operation_mask):
            noise = torch.rand(mask.shape, generator=random, dtype=torch.float64) - (1 - on)
            mask.copy_(THRESHOLD + 0.01 * noise)
    return code


def each_place(code: HierarchicalCode) -> Iterator[tuple[str, Place, float, bool]]:
    """(kind, place, c, active) of all places in the definition's words, one number at a time."""
    space = code.space
    edges = [(n, source) for n in range(space.nodes) for source in range(space.inputs + n)]
    alpha, beta = code.alpha.tolist(), code.beta.tolist()
    edge_mask, operation_mask = code.edge_mask.tolist(), code.operation_mask.tolist()
    for k, kind in enumerate(space.kinds):
        for e, (node, source) in enumerate(edges):
            siblings = [i for i, (n, _) in enumerate(edges) if n == node]
            of_edge = math.exp(beta[k][e]) / sum(math.exp(beta[k][i]) for i in siblings)
            total = sum(map(math.exp, alpha[k][e]))
            for o in range(len(space.primitives)):
                c = of_edge * math.exp(alpha[k][e][o]) / total
                active = edge_mask[k][e] > THRESHOLD and operation_mask[k][e][o] > THRESHOLD
                yield kind, Place(node, source, o), c, active


def as_dict(coefficients: dict[str, Coefficients]) -> dict[tuple[str, Place], float]:
    return {
        (kind, place): value
        for kind, part in coefficients.items()
        for place, value in zip(part.places, part.values.tolist(), strict=True)
    }


class TestBinary:
    def test_is_one_above_the_threshold_only(self) -> None:
        mask = torch.tensor([-1.0, 0.0, THRESHOLD, 0.0051, 3.0])
        assert binary(mask, THRESHOLD).tolist() == [0, 0, 0, 1, 1]

    def test_the_gradient_passes_unchanged_wherever_the_mask_is(self) -> None:
        mask = torch.tensor([-1.0, 0.004, 0.006, 9.0], requires_grad=True)
        (binary(mask, THRESHOLD) * torch.tensor([1.0, -2.0, 3.0, 4.0])).sum().backward()
        assert mask.grad.tolist() == [1, -2, 3, 4]


class TestCoefficients:
    @pytest.mark.parametrize("space", SPACES)
    def test_are_the_products_of_two_softmaxes(self, space: Space) -> None:
        code = drawn_code(space)
        found = as_dict(code.coefficients())
        expected = {(kind, place): c for kind, place, c, _ in each_place(code)}
        assert found == pytest.approx(expected, rel=1e-12)
        for kind in space.kinds:
            for node in range(space.nodes):
                shares = [found[kind, place] for place in space.candidates(node)]
                assert sum(shares) == pytest.approx(1)

    @pytest.mark.parametrize("space", SPACES)
    def test_masked_out_places_are_there_with_zero(self, space: Space) -> None:
        code = drawn_code(space)
        expected = {(kind, place): c if on else 0.0 for kind, place, c, on in each_place(code)}
        assert {c == 0 for c in expected.values()} == {True, False}
        assert as_dict(code.masked_coefficients()) == pytest.approx(expected, rel=1e-12)

    def test_at_some_places(self) -> None:
        code = drawn_code(SMALL)
        places = {"normal": (Place(1, 2, 1), Place(0, 0, 2)), "reduction": ()}
        found = code.coefficients_at(places)
        assert {kind: part.places for kind, part in found.items()} == places
        everywhere = as_dict(code.coefficients())
        assert as_dict(found) == {("normal", p): everywhere["normal", p] for p in places["normal"]}

    def test_each_set_has_gradients_for_its_own_only(self) -> None:
        code = drawn_code(SMALL)
        weights, masks = [code.alpha, code.beta], [code.edge_mask, code.operation_mask]

        def total(coefficients: dict[str, Coefficients]) -> Tensor:
            return sum(part.values.square().sum() for part in coefficients.values())

        for value, own, others in [
            (total(code.coefficients()), weights, masks),
            (total(code.masked_coefficients()), masks, weights),
        ]:
            code.zero_grad(set_to_none=True)
            value.backward()
            assert all(parameter.grad.any() for parameter in own)
            assert all(parameter.grad is None for parameter in others)

    def test_first_weights_are_drawn_from_the_seed_and_masks_are_on(self) -> None:
        first, again, other = (HierarchicalCode(DARTS_SPACE, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.alpha, again.alpha) and torch.equal(first.beta, again.beta)
        assert not torch.equal(first.alpha, other.alpha)
        assert 0 < float(first.alpha.detach().std()) < 2e-3
        assert all(on for *_, on in each_place(first.double()))


class TestSurvivors:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("on", [0.2, 0.5, 0.9])
    def test_are_those_of_the_definition(self, space: Space, on: float) -> None:
        for seed in range(10):
            code = drawn_code(space, seed, on)
            table = list(each_place(code))
            strength = {(kind, place): c for kind, place, c, _ in table}
            expected = set()
            for kind in space.kinds:
                for node in range(space.nodes):
                    alive = [p for k, p, _, a in table if k == kind and p.node == node and a]
                    if space.choices[0].groups is not None:
                        alive = [
                            place
                            for place in alive
                            if all(
                                strength[kind, other] <= strength[kind, place]
                                for other in alive
                                if other.source == place.source
                            )
                        ]
                    if not alive:
                        nodes = [key for key in strength if key[0] == kind and key[1].node == node]
                        alive = [max(nodes, key=strength.__getitem__)[1]]
                    expected |= {(kind, place) for place in alive}
            survivors = code.survivors()
            found = {(kind, place) for kind, places in survivors.items() for place in places}
            assert found == expected
            assert code.genotype().places(space) == survivors

    def test_an_edge_that_is_off_takes_its_operations_along(self) -> None:
        code = HierarchicalCode(SMALL)
        with torch.no_grad():
            code.edge_mask[0, 1] = 0.0  # node 0 of the normal cell reads state 1
            code.operation_mask[1, 0, 2] = -1.0
        survivors = code.survivors()
        everything = SMALL.places()
        assert set(everything) - set(survivors["normal"]) == {Place(0, 1, o) for o in range(3)}
        assert set(everything) - set(survivors["reduction"]) == {Place(0, 0, 2)}

    def test_in_a_space_of_one_operation_per_edge_an_edge_can_have_none(self) -> None:
        code = HierarchicalCode(NASBENCH201_SPACE)
        assert len(code.survivors()["cell"]) == 6
        with torch.no_grad():
            code.edge_mask[0, 2] = 0.0
        sources = {(p.node, p.source) for p in code.survivors()["cell"]}
        assert sources == {(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)}


class TestStraightThrough:
    """The gradient of a mask is that of the relaxed problem where it takes the values 0 and 1.

    Relaxed: the masks, any real numbers, are multiplied in directly, without threshold. Its derivative at the binary
    numbers is taken by central differences.
    """

    def problem(
        self, fill_norms: Fill
    ) -> tuple[Network, HierarchicalCode, WeightMasks, tuple[Tensor, Tensor]]:
        network = build_supernet(NetworkOptions(2, 3, 4, 1, closing_norm="all"), SMALL, seed=1)
        network.double()
        fill_norms(network, 1)
        code = drawn_code(SMALL, seed=4)
        masks = WeightMasks(network)
        random = torch.Generator().manual_seed(2)
        with torch.no_grad():
            noise = torch.rand(masks.mask.shape, generator=random, dtype=torch.float64) - 0.4
            masks.mask.copy_(THRESHOLD + 0.01 * noise)
        x = torch.randn(6, 1, 8, 8, generator=random, dtype=torch.float64)
        return network, code, masks, (x, torch.arange(6) % 4)

    def test_agrees_with_differences_of_the_relaxed_problem(self, fill_norms: Fill) -> None:
        network, code, masks, (x, y) = self.problem(fill_norms)
        c = as_dict(code.coefficients())
        weights = {name: weight.detach() for name, weight in operation_weights(network).items()}
        edges = {(n, s): i for i, (n, s) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)])}

        def relaxed(edge: Tensor, operation: Tensor, weight: Tensor) -> float:
            values = {}
            for k, kind in enumerate(SMALL.kinds):
                factors = [
                    c[kind, p]
                    * edge[k, edges[p.node, p.source]]
                    * operation[k, edges[p.node, p.source], p.operation]
                    for p in SMALL.places()
                ]
                values[kind] = Coefficients(torch.stack(factors), SMALL.places())
            start, masked = 0, {}
            for name, each in weights.items():
                part = weight[start : start + each.numel()]
                masked[name] = each * part.reshape(each.shape)
                start += each.numel()
            return float(F.cross_entropy(functional_call(network, masked, (x, values)), y))

        loss = F.cross_entropy(
            functional_call(network, masks(), (x, code.masked_coefficients())), y
        )
        loss.backward()
        real = [code.edge_mask, code.operation_mask, masks.mask]
        at = [(mask.detach() > THRESHOLD).double() for mask in real]
        with torch.no_grad():
            assert relaxed(*at) == pytest.approx(float(loss.detach()), rel=1e-12)
            for i, mask in enumerate(real):
                gradient, binary_at = mask.grad.flatten().tolist(), at[i].flatten().tolist()
                for value in (0.0, 1.0):
                    own = [e for e, b in enumerate(binary_at) if b == value]
                    # masks that are off have gradients, too, and can come back
                    moving = [e for e in own if gradient[e] != 0][:3]
                    assert len(moving) == 3
                    for entry in moving + [e for e in own if gradient[e] == 0][:1]:
                        h = torch.zeros_like(at[i]).flatten()
                        h[entry] = 1e-6
                        h = h.view(at[i].shape)
                        ends = [relaxed(*at[:i], at[i] + d, *at[i + 1 :]) for d in (h, -h)]
                        expected = (ends[0] - ends[1]) / 2e-6
                        assert gradient[entry] == pytest.approx(expected, rel=1e-5, abs=1e-8)

    def test_no_weight_gets_a_gradient(self, fill_norms: Fill) -> None:
        network, code, masks, (x, y) = self.problem(fill_norms)
        network.requires_grad_(False)
        out = functional_call(network, masks(), (x, code.masked_coefficients()))
        F.cross_entropy(out, y).backward()
        assert all(parameter.grad is None for parameter in network.parameters())
        assert masks.mask.grad.any()


class TestWeightMasks:
    def test_cover_all_weights_of_operations_and_nothing_else(self) -> None:
        network = build_supernet(NetworkOptions(2, 3, 4, 1, closing_norm="all"), SMALL)
        names = set(operation_weights(network))
        expected = {
            f"{name}.weight"
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and ".nodes.operations." in name
        }
        assert names == expected and len(names) > 20
        size = sum(dict(network.named_parameters())[name].numel() for name in names)
        assert WeightMasks(network).mask.shape == (size,)

    @pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
    def test_zero_what_is_at_or_below_the_threshold(self, layout: torch.memory_format) -> None:
        network = build_supernet(NetworkOptions(2, 3, 4, 1, closing_norm="all"), SMALL)
        network.to(memory_format=layout)
        before = copy.deepcopy(network.state_dict())
        masks = WeightMasks(network)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            masks.mask.copy_(torch.rand(masks.mask.shape, generator=random) * 0.01)
            masks.mask[0] = THRESHOLD
        masked = {name: weight.detach() for name, weight in masks().items()}
        masks.apply_to_weights()
        flat = masks.mask.tolist()
        own = operation_weights(network)
        for name, now in network.state_dict().items():
            if name not in own:
                assert torch.equal(now, before[name])
                continue
            entries = zip(before[name].flatten().tolist(), flat[: now.numel()], strict=True)
            assert now.flatten().tolist() == [w if m > THRESHOLD else 0.0 for w, m in entries]
            assert torch.equal(now, masked[name])
            flat = flat[now.numel() :]
        assert not flat

    def test_a_network_without_weights_in_its_cells_has_none(self) -> None:
        space = DartsSpace(primitives=("avg_pool_3x3",), nodes=1)
        network = build_supernet(NetworkOptions(2, 3, 4, 1, closing_norm="all"), space)
        masks = WeightMasks(network)
        assert masks.mask.shape == (0,) and masks() == {}
