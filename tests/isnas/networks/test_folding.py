"""Folding gives the plain network that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from making import build_network, build_supernet, random_genotype
from torch import Tensor, nn

from isnas import (
    DARTS_SPACE,
    Coefficients,
    Genotype,
    SparseCode,
    SparseCodeOptions,
    UserError,
    fold,
)
from isnas.codes.softmax import SoftmaxCode
from isnas.networks.darts import Network, NetworkOptions
from isnas.networks.operations import bypassing

KINDS = DARTS_SPACE.kinds
Fill = Callable[[nn.Module, int], None]


def trained(fill_norms: Fill, dtype: torch.dtype, seed: int = 0) -> Network:
    """A super-net whose batch norms are as different as after a training."""
    network = build_supernet(
        NetworkOptions(3, 4, 5, 1, auxiliary=True, closing_norm="all"), seed=seed
    )
    network.to(dtype)
    fill_norms(network, seed)
    return network


def drawn(seed: int, dtype: torch.dtype, s: int | tuple[int, ...] = 2) -> dict[str, Coefficients]:
    random = torch.Generator().manual_seed(seed)
    places = random_genotype(DARTS_SPACE, random, s).places(DARTS_SPACE)
    coefficients = {}
    for kind in KINDS:
        values = torch.randn(len(places[kind]), generator=random, dtype=dtype)
        assert (values < 0).any() and (values > 0).any()
        turned = places[kind][::-1]  # their order carries no meaning
        coefficients[kind] = Coefficients(values.requires_grad_(), turned)
    return coefficients


def images(dtype: torch.dtype, size: int = 8) -> Tensor:
    random = torch.Generator().manual_seed(9)
    return torch.randn(6, 1, size, size, generator=random, dtype=dtype)


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


class TestOutputs:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("s", [2, (0, 1, 4, 2)])
    def test_equal_the_supernets(
        self,
        training: bool,
        dtype: torch.dtype,
        bound: float,
        seed: int,
        s: int | tuple[int, ...],
        fill_norms: Fill,
    ) -> None:
        supernet = trained(fill_norms, dtype, seed).train(training)
        coefficients = drawn(seed, dtype, s)
        folded = fold(supernet, coefficients)
        assert folded.training == training
        x = images(dtype)
        expected = supernet(x, coefficients, auxiliary=True)
        found = folded(x, auxiliary=True)
        assert relative(found.logits, expected.logits) <= bound
        assert relative(found.auxiliary, expected.auxiliary) <= bound
        assert not torch.allclose(expected.logits, expected.logits[:1])

    def test_statistics_go_on_alike(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float64).train()
        coefficients = drawn(4, torch.float64)
        folded = fold(supernet, coefficients)
        supernet(images(torch.float64), coefficients)
        folded(images(torch.float64))
        ours = dict(supernet.named_buffers())
        for name, buffer in folded.named_buffers():
            torch.testing.assert_close(buffer, ours[name], rtol=1e-10, atol=1e-12)

    def test_gradients_of_the_convolutions_are_the_supernets(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float64).train()
        coefficients = drawn(5, torch.float64)
        folded = fold(supernet, coefficients)
        x, y = images(torch.float64), torch.arange(6) % 5
        nn.functional.cross_entropy(supernet(x, coefficients), y).backward()
        nn.functional.cross_entropy(folded(x), y).backward()
        theirs = dict(supernet.named_parameters())
        compared = 0
        for name, parameter in folded.named_parameters():
            if parameter.ndim == 4 and not name.startswith("auxiliary_head"):
                torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-8, atol=1e-12)
                compared += int(parameter.grad.any())
        assert compared > 20

    def test_with_the_coefficients_of_a_sparse_code(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float32).eval()
        code = SparseCode(DARTS_SPACE, SparseCodeOptions(init_scale=0.1), seed=2)
        folded = fold(supernet, code.coefficients())
        x = images(torch.float32)
        assert relative(folded(x), supernet(x, code.coefficients())) <= 1e-5
        assert Genotype.of(folded) == code.genotype()


class TestFoldedNetwork:
    def test_its_state_is_that_of_a_network_of_the_genotype(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float32).eval()
        coefficients = drawn(6, torch.float32)
        folded = fold(supernet, coefficients)
        places = {kind: part.places for kind, part in coefficients.items()}
        genotype = Genotype.from_places(places, DARTS_SPACE)
        assert Genotype.of(folded) == genotype
        built = build_network(
            genotype, 3, 4, 5, in_channels=1, auxiliary=True, closing_norm="all", seed=99
        ).eval()
        built.load_state_dict(folded.state_dict())
        x = images(torch.float32)
        assert torch.equal(built(x), folded(x))
        counted = [sum(p.numel() for p in each.parameters()) for each in (built, folded)]
        assert counted[0] == counted[1]
        assert [type(m) for m in built.modules()] == [type(m) for m in folded.modules()]

    def test_everything_in_it_can_be_trained(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float32).train()
        supernet.requires_grad_(False)
        folded = fold(supernet, drawn(7, torch.float32))
        out = folded(images(torch.float32), auxiliary=True)
        (out.logits.square().sum() + out.auxiliary.square().sum()).backward()
        for name, parameter in folded.named_parameters():
            assert parameter.is_leaf and parameter.grad is not None, name

    def test_the_supernet_stays_as_it_is_and_shares_nothing(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float32).train()
        coefficients = drawn(8, torch.float32)
        before = copy.deepcopy(supernet.state_dict())
        values = {kind: part.values.detach().clone() for kind, part in coefficients.items()}
        folded = fold(supernet, coefficients)
        with torch.no_grad():
            for tensor in folded.state_dict().values():
                tensor.zero_()
        assert supernet.training
        for name, tensor in supernet.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        for kind, part in coefficients.items():
            assert torch.equal(part.values.detach(), values[kind])

    @pytest.mark.slow
    def test_can_be_exported(self, fill_norms: Fill) -> None:
        supernet = trained(fill_norms, torch.float32).eval()
        coefficients = drawn(3, torch.float32)
        x = images(torch.float32)
        exported = torch.export.export(fold(supernet, coefficients), (x,))
        assert relative(exported.module()(x), supernet(x, coefficients)) <= 1e-5


@pytest.mark.parametrize("closing_norm", ["none", "pooling"])
def test_a_supernet_without_all_batch_norms_is_refused(closing_norm: str) -> None:
    supernet = build_supernet(NetworkOptions(2, 3, 4, 1, closing_norm=closing_norm))
    with pytest.raises(UserError, match="closing_norm"):
        fold(supernet, drawn(0, torch.float32))


def test_a_supernet_of_partial_channels_is_refused() -> None:
    space = bypassing(DARTS_SPACE)
    supernet = build_supernet(NetworkOptions(4, 3, 4, 1, closing_norm="all", partial=2), space)
    code = SoftmaxCode(space)
    with pytest.raises(UserError, match="partial=1"):
        fold(supernet, code.coefficients())
