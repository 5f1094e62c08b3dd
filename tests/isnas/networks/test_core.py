"""The super-net computes the sum over all candidates, runs the active ones only, and touches no other."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from making import (
    build_network,
    build_supernet,
    random_genotype,
    trainer_of,
)
from torch import Tensor, nn

from isnas import (
    DARTS_SPACE,
    GENOTYPES,
    Coefficients,
    Genotype,
    Place,
)
from isnas.networks.core import scaled, train_affine
from isnas.networks.darts import Network, NetworkOptions
from isnas.networks.operations import BatchNorm
from isnas.runs.training import WeightTrainer
from isnas.runtime.memory import saved_bytes

KINDS = DARTS_SPACE.kinds
Dense = dict[str, dict[Place, Tensor]]


def supernet(closing_norm: str = "all", auxiliary: bool = False, channels: int = 2) -> Network:
    shape = NetworkOptions(channels, 3, 4, 1, auxiliary=auxiliary, closing_norm=closing_norm)
    return build_supernet(shape, seed=1)


def drawn(seed: int, s: int | tuple[int, ...] = 2) -> dict[str, Coefficients]:
    """Random places, in random order, with random values of both signs."""
    random = torch.Generator().manual_seed(seed)
    places = random_genotype(DARTS_SPACE, random, s).places(DARTS_SPACE)
    coefficients = {}
    for kind in KINDS:
        order = torch.randperm(len(places[kind]), generator=random).tolist()
        values = torch.randn(len(order), generator=random, dtype=torch.float64)
        coefficients[kind] = Coefficients(values, tuple(places[kind][i] for i in order))
    return coefficients


def dense(coefficients: dict[str, Coefficients]) -> Dense:
    """One weight for every candidate of the space: zero for the inactive ones."""
    z: Dense = {}
    for kind, part in coefficients.items():
        z[kind] = {
            place: torch.zeros((), dtype=torch.float64, requires_grad=True)
            for place in DARTS_SPACE.places()
        }
        for place, value in zip(part.places, part.values.tolist(), strict=True):
            z[kind][place] = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    return z


def sum_over_all(network: Network, x: Tensor, z: Dense) -> Tensor:
    """x_j = z_j . o_j with all candidate outputs o_j: METHOD.md, section 1, written out."""
    s0 = s1 = network.stem(x)
    for kind, cell in zip(network.kinds, network.cells, strict=True):
        states = [bring(s) for bring, s in zip(cell.inputs, (s0, s1), strict=True)]
        for node in range(DARTS_SPACE.nodes):
            states.append(
                sum(
                    z[kind][place]
                    * cell.nodes.operations[DARTS_SPACE.place_key(place)](states[place.source])
                    for place in DARTS_SPACE.candidates(node)
                )
            )
        s0, s1 = s1, torch.cat(states[2:], 1)
    return network.classifier(s1.mean((2, 3)))


def images(n: int = 6, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=random, dtype=torch.float64)


class TestSumOverAllCandidates:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("closing_norm", ["none", "pooling", "all"])
    @pytest.mark.parametrize("s", [2, (0, 1, 3, 9)])
    def test_output_and_gradients(
        self,
        training: bool,
        closing_norm: str,
        s: int | tuple[int, ...],
        fill_norms: Callable[[nn.Module, int], None],
    ) -> None:
        network = supernet(closing_norm).double()
        fill_norms(network, 3)
        network.train(training)
        coefficients = drawn(4, s)
        for part in coefficients.values():
            part.values.requires_grad_()
        z = dense(coefficients)
        reference = copy.deepcopy(network)
        expected = sum_over_all(reference, images(), z)
        out = network(images(), coefficients)
        torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)

        (expected**2).sum().backward()
        (out**2).sum().backward()
        for kind, part in coefficients.items():
            wanted = torch.stack([z[kind][place].grad for place in part.places])
            torch.testing.assert_close(part.values.grad, wanted, rtol=1e-9, atol=1e-11)
        for (name, ours), theirs in zip(
            network.named_parameters(), reference.parameters(), strict=True
        ):
            if ours.grad is None:  # inactive: the dense form has a zero there
                assert theirs.grad is None or not theirs.grad.any(), name
            else:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("training", [True, False])
    def test_gradient_of_the_values_by_finite_differences(self, training: bool) -> None:
        network = supernet("all").double().train(training)
        coefficients = drawn(8)

        def scores(normal: Tensor, reduction: Tensor) -> Tensor:
            values = dict(zip(KINDS, (normal, reduction), strict=True))
            return network(
                images(3),
                {kind: Coefficients(values[kind], coefficients[kind].places) for kind in KINDS},
            )

        values = [coefficients[kind].values.requires_grad_() for kind in KINDS]
        assert torch.autograd.gradcheck(scores, values, eps=1e-6, atol=1e-6)

    def test_order_of_the_places_carries_no_meaning(self) -> None:
        network = supernet().double()
        coefficients = drawn(2)
        turned = {
            kind: Coefficients(part.values.flip(0), part.places[::-1])
            for kind, part in coefficients.items()
        }
        assert torch.equal(network(images(), coefficients), network(images(), turned))

    def test_ones_are_the_discrete_network(self) -> None:
        """Other methods hand over other numbers; with ones nothing is left but the network itself."""
        network = supernet("all").double()
        places = GENOTYPES["ISTA_onestage"].places(DARTS_SPACE)
        ones = {
            kind: Coefficients(torch.ones(8, dtype=torch.float64), places[kind]) for kind in KINDS
        }
        plain = build_network(
            GENOTYPES["ISTA_onestage"], 2, 3, 4, in_channels=1, closing_norm="all"
        ).double()
        state = network.state_dict()
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        torch.testing.assert_close(network(images(), ones), plain(images()), rtol=1e-12, atol=1e-12)

    def test_all_candidates_can_be_active(self) -> None:
        """As in DARTS: every place with a value."""
        network = supernet().double()
        random = torch.Generator().manual_seed(0)
        places = DARTS_SPACE.places()
        values = torch.rand(len(places), generator=random, dtype=torch.float64)
        coefficients = dict.fromkeys(KINDS, Coefficients(values, places))
        expected = sum_over_all(copy.deepcopy(network), images(), dense(coefficients))
        torch.testing.assert_close(network(images(), coefficients), expected)

    def test_auxiliary_scores_are_those_of_the_same_cells(self) -> None:
        network = supernet(auxiliary=True).double()
        coefficients = drawn(3)
        seen: list[Tensor] = []
        network.cells[2].register_forward_hook(lambda _, __, out: seen.append(out))
        out = network(images(), coefficients, auxiliary=True)
        torch.testing.assert_close(out.auxiliary, network.auxiliary_head(seen[0]))


def operations(network: Network, coefficients: dict[str, Coefficients]) -> list[nn.Module]:
    return [
        operation
        for kind, part in coefficients.items()
        for operation in network.operations_at(kind, part.places)
    ]


def all_operations(network: Network) -> list[nn.Module]:
    return [operation for cell in network.cells for operation in cell.nodes.operations.values()]


def state_of(modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return weights, buffers and everything that the optimizer keeps for them."""
    tensors: list[Tensor] = []
    for module in modules:
        tensors += module.state_dict().values()
        for parameter in module.parameters():
            kept = optimizer.state.get(parameter, {})
            tensors += [v for v in kept.values() if isinstance(v, Tensor)]
    return [tensor.clone() for tensor in tensors]


class TestInactiveCandidates:
    def step(
        self, weights: WeightTrainer, coefficients: dict[str, Coefficients], seed: int
    ) -> None:
        y = torch.arange(6) % 4
        loss, _ = weights.loss((images(6, seed), y), coefficients)
        loss.backward()
        weights.update()

    @pytest.mark.parametrize("closing_norm", ["pooling", "all"])
    @pytest.mark.parametrize("affine", [True, False])
    def test_are_not_touched_by_a_step(self, closing_norm: str, affine: bool) -> None:
        """Neither weights nor statistics nor momentum, though active before, with weight decay and momentum."""
        network = supernet(closing_norm).double().train()
        train_affine(network.cells, affine)
        weights = trainer_of(network, learning_rate=0.1, weight_decay=0.1)
        first, second = drawn(10), drawn(11)
        self.step(weights, first, 0)
        self.step(weights, first, 1)
        inactive = [op for op in all_operations(network) if op not in operations(network, second)]
        were_active = [op for op in inactive if op in operations(network, first)]
        assert any(list(op.parameters()) for op in were_active), "nothing has been deactivated"
        before = state_of(inactive, weights.optimizer)
        active_before = state_of(operations(network, second), weights.optimizer)
        self.step(weights, second, 2)
        self.step(weights, second, 3)
        after = state_of(inactive, weights.optimizer)
        assert all(map(torch.equal, before, after))
        assert len(before) == len(after)
        active_after = state_of(operations(network, second), weights.optimizer)
        assert len(active_before) < len(active_after) or not all(
            map(torch.equal, active_before, active_after)
        )

    def test_go_on_from_their_old_momentum_when_active_again(self) -> None:
        network = supernet().double().train()
        weights = trainer_of(network, learning_rate=0.1)
        first, second = drawn(10), drawn(11)
        self.step(weights, first, 0)
        parameter = next(
            p
            for op in operations(network, first)
            if op not in operations(network, second)
            for p in op.parameters()
        )
        momentum = weights.optimizer.state[parameter]["momentum_buffer"].clone()
        self.step(weights, second, 1)
        assert torch.equal(weights.optimizer.state[parameter]["momentum_buffer"], momentum)
        self.step(weights, first, 2)
        assert not torch.equal(weights.optimizer.state[parameter]["momentum_buffer"], momentum)

    def test_have_no_gradient(self) -> None:
        network = supernet().double().train()
        coefficients = drawn(12)
        network(images(), coefficients).sum().backward()
        active = operations(network, coefficients)
        for op in all_operations(network):
            for parameter in op.parameters():
                assert (parameter.grad is not None) == (op in active)


class Calls:
    """Counts the calls of all modules of a network, by their class."""

    def __init__(self, network: Network) -> None:
        self.count: Counter[str] = Counter()
        self.called: list[nn.Module] = []
        for module in network.modules():
            module.register_forward_hook(self.hook)

    def hook(self, module: nn.Module, *_: object) -> None:
        self.count[type(module).__name__] += 1
        self.called.append(module)


def discrete(genotype: Genotype, closing_norm: str, channels: int) -> Network:
    return build_network(
        genotype, channels, 3, 4, in_channels=1, closing_norm=closing_norm, auxiliary=True
    )


class TestCost:
    @pytest.mark.parametrize("s", [2, (1, 0, 4, 3)])
    def test_calls_are_those_of_the_discrete_network(self, s: int | tuple[int, ...]) -> None:
        network = supernet().double()
        coefficients = drawn(20, s)
        calls = Calls(network)
        network(images(), coefficients)
        active = operations(network, coefficients)
        called = [m for m in calls.called if m in all_operations(network)]
        assert sorted(map(id, called)) == sorted(map(id, active))
        per_kind = {kind: len(part.places) for kind, part in coefficients.items()}
        assert calls.count["Operation"] == sum(per_kind[kind] for kind in network.kinds)

        places = {kind: part.places for kind, part in coefficients.items()}
        plain = discrete(Genotype.from_places(places, DARTS_SPACE), "all", 2).double()
        plain_calls = Calls(plain)
        plain(images())
        assert calls.count == plain_calls.count

    @pytest.mark.parametrize(("closing_norm", "bound"), [("pooling", 1.03), ("all", 1.02)])
    @pytest.mark.parametrize("name", [*GENOTYPES, "random"])
    def test_memory_is_that_of_the_discrete_network(
        self, closing_norm: str, bound: float, name: str
    ) -> None:
        """A step keeps at most 2 % more for the backward pass, and nothing of inactive candidates.

        Without a batch norm a skip's coefficient c needs x for its gradient, which the discrete network need not keep.
        """
        genotype = (
            random_genotype(DARTS_SPACE, torch.Generator().manual_seed(5))
            if name == "random"
            else GENOTYPES[name]
        )
        places = genotype.places(DARTS_SPACE)
        coefficients = {
            kind: Coefficients(torch.randn(8, requires_grad=True), places[kind]) for kind in KINDS
        }
        network, plain = supernet(closing_norm, channels=8), discrete(genotype, closing_norm, 8)
        x = torch.randn(16, 1, 16, 16)
        assert saved_bytes(lambda: network(x, coefficients)) <= bound * saved_bytes(
            lambda: plain(x)
        )

    def test_never_asks_the_device(self) -> None:
        """On "meta" there are no values: a test of one would raise."""
        network = supernet("pooling", auxiliary=True).to("meta").train()
        coefficients = {
            kind: Coefficients(part.values.float().to("meta").requires_grad_(), part.places)
            for kind, part in drawn(1).items()
        }
        out = network(torch.empty(4, 1, 8, 8, device="meta"), coefficients, auxiliary=True)
        (out.logits.sum() + out.auxiliary.sum()).backward()
        assert coefficients["normal"].values.grad.shape == (8,)


class TestScaled:
    def test_products_and_their_gradients(self) -> None:
        random = torch.Generator().manual_seed(0)
        norms = [[BatchNorm(5).double() for _ in range(3)] for _ in range(2)]
        for norm in (norm for row in norms for norm in row):
            for parameter in norm.parameters():
                torch.nn.init.normal_(parameter, generator=random)
        c = torch.randn(3, dtype=torch.float64, generator=random, requires_grad=True)
        leaves = [c, *(p for row in norms for norm in row for p in norm.parameters())]
        upper = torch.randn(12, 5, dtype=torch.float64, generator=random)

        def gradients(products: list[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad((torch.stack(products) * upper).sum(), leaves)

        found = [part for row in scaled(norms, c) for affine in row for part in affine]
        expected = [
            p * c[k]
            for row in norms
            for k, norm in enumerate(row)
            for p in (norm.weight, norm.bias)
        ]
        assert all(map(torch.equal, found, expected))
        for ours, theirs in zip(gradients(found), gradients(expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


class TestTrainAffine:
    def test_fixes_the_affine_parts_where_they_are_and_nothing_else(self) -> None:
        network = supernet()
        train_affine(network.cells, False)
        fixed = {id(p) for p in network.parameters() if not p.requires_grad}
        norms = [m for m in network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
        assert fixed == {id(p) for norm in norms for p in norm.parameters()}
        train_affine(norms[:3], True)
        assert sum(p.requires_grad for norm in norms for p in norm.parameters()) == 6
