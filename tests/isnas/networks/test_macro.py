"""The network of ENAS's macro space, against its sizes and against its formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isnas import (
    CellNetwork,
    Coefficients,
    Genotype,
    SparseCode,
    SparseCodeOptions,
    UserError,
    build_network,
    build_supernet,
    count_multiply_adds,
    count_parameters,
    fold,
)
from isnas.codes.choices import Choices
from isnas.networks.counting import PlaceCosts
from isnas.networks.folding import extract
from isnas.networks.registry import family
from isnas.spaces.base import Place
from isnas.spaces.macro import KIND, SKIP, MacroSpace

Fill = Callable[[nn.Module, int], None]
SPACE = MacroSpace(layers=7)  # reduced after layers 1 and 3
PUBLISHED = Genotype.load("ENAS_macro")


def drawn(seed: int, space: MacroSpace = SPACE) -> Genotype:
    return Choices(space).random(torch.Generator().manual_seed(seed))


def images(size: int = 8, number: int = 5) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(number, 2, size, size, generator=random, dtype=torch.float64)


def supernet_of(form: str, fill_norms: Fill, seed: int = 0, **shape: Any) -> CellNetwork:
    shape = {"channels": 4, "classes": 3, "in_channels": 2, "form": form, **shape}
    network = build_supernet(SPACE, seed=seed, **shape).double()
    fill_norms(network, seed)
    return network


def coefficients_of(genotype: Genotype, seed: int = 0) -> dict[str, Coefficients]:
    places = genotype.places()[KIND]
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(len(places), generator=random, dtype=torch.float64)
    assert (values < 0).any() and (values > 0).any()
    return {KIND: Coefficients(values, places)}


def closed_form(genotype: Genotype, c: int, kernels: dict[str, int]) -> int:
    """Return the parameters of the final network, layer by layer."""
    layers = genotype.space.layers
    total = 3 * c * 9 + 2 * c
    for layer, edges in enumerate(genotype[KIND].nodes):
        (operation,) = (edge.operation for edge in edges if edge.operation != SKIP)
        skips = len(edges) - 1
        total += c * c + 2 * c  # the 1x1 convolution before
        if operation in kernels:
            total += c * c * kernels[operation] ** 2 + 2 * c
        elif operation.startswith("sep"):
            total += c * int(operation[-1]) ** 2 + c * c + 2 * c
        if layer > 0:
            total += (1 + skips) * c * c + 2 * c
        if layer in (layers // 3 - 1, 2 * (layers // 3) - 1):
            total += (layer + 2) * (2 * c * c + 2 * 2 * c)
            c *= 2
    return total + 10 * c


def test_sizes_of_the_published_network() -> None:
    """As the released code builds it, separable convolutions as full ones; and as they are called."""
    full = {"conv_3x3": 3, "conv_5x5": 5}
    as_released = {**full, "sep_conv_3x3": 3, "sep_conv_5x5": 5}
    assert closed_form(PUBLISHED, 96, as_released) == 42_559_392
    places = [
        place._replace(operation=place.operation & ~1) if place.operation < 4 else place
        for place in PUBLISHED.places()[KIND]
    ]
    replaced = Genotype.from_places({KIND: places}, PUBLISHED.space)
    assert count_parameters(build_network(replaced)) == 42_559_392
    network = build_network(PUBLISHED)
    assert count_parameters(network) == closed_form(PUBLISHED, 96, full) == 30_947_424


def test_multiply_adds_of_the_chain_by_hand() -> None:
    """Three layers of 3x3 convolutions without skips: reduced after layers 0 and 1."""
    genotype = Genotype.parse("0 0 0 0 0 0")
    network = build_network(genotype, channels=4, classes=5, in_channels=1)
    layer = [
        (c * c + 9 * c * c + (c * c if i else 0)) * pixels
        for i, (c, pixels) in enumerate([(4, 64), (8, 16), (16, 4)])
    ]
    # only what a later layer reads is reduced: one state each time
    reduced = 4 * 8 * 16 + 8 * 16 * 4
    assert count_multiply_adds(network, (8, 8)) == 9 * 4 * 64 + sum(layer) + reduced + 16 * 5


def norm(x: Tensor, module: nn.BatchNorm2d) -> Tensor:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    y = (x - mean[:, None, None]) / (var + module.eps).sqrt()[:, None, None]
    return y * module.weight[:, None, None] + module.bias[:, None, None]


def reference(
    network: CellNetwork, genotype: Genotype, c: dict[Place, Tensor], x: Tensor, final: bool
) -> Tensor:
    """Return what the module's formulas give, in training mode."""
    states = [norm(F.conv2d(x, network.stem[0].weight, padding=1), network.stem[1])]
    reductions = iter(network.reductions)
    for layer in range(genotype.space.layers):
        places = [place for place in genotype.places()[KIND] if place.node == layer]
        (own,) = (place for place in places if place.source == layer)
        operation = network.operations_at(KIND, [own])[0]
        weights = [m for m in operation.body if isinstance(m, nn.Conv2d)]
        norms = [m for m in operation.body if isinstance(m, nn.BatchNorm2d)]
        o = states[layer]
        if final:
            o = o.relu()
        o = norm(F.conv2d(o, weights[0].weight), norms[0]).relu()
        name = SPACE.primitives[own.operation]
        if name == "max_pool_3x3":
            padded = F.pad(o, (1, 1, 1, 1), value=-torch.inf)
            o = padded.unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))
        elif name == "avg_pool_3x3":
            ones = torch.ones_like(o)
            o, n = (
                F.pad(t, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum((-1, -2))
                for t in (o, ones)
            )
            o = o / n
        else:
            for conv in weights[1:]:
                k = conv.weight.shape[-1]
                o = F.conv2d(o, conv.weight, padding=k // 2, groups=conv.groups)
            o = norm(o, operation.norm or norms[1])
            if not final:
                o = o.relu()
        if operation.norm is not None and name.endswith("pool_3x3"):
            o = norm(o, operation.norm)
        o = c[own] * o
        skips = [place for place in places if place.source < layer]
        if layer > 0 and final:
            # the 1x1 convolution of the concatenation, as one
            parts = [network.operations_at(KIND, [place])[0].conv.weight for place in skips]
            scaled = [c[place] * part for place, part in zip(skips, parts, strict=True)]
            kernel = torch.cat([network.joins[layer].conv.weight, *scaled], dim=1)
            joined = torch.cat([o, *(states[place.source] for place in skips)], dim=1)
            o = norm(F.conv2d(joined.relu(), kernel), network.joins[layer].norm)
        elif layer > 0:
            o = o + sum((c[place] * states[place.source] for place in skips), torch.zeros(()))
            o = norm(o, network.joins[layer].norm)
        states.append(o)
        if layer in (1, 3):
            states = [
                norm(
                    torch.cat(
                        [
                            F.conv2d(s, module[0].conv_1.weight, stride=2),
                            F.conv2d(
                                F.pad(s, (0, 1, 0, 1))[..., 1:, 1:],
                                module[0].conv_2.weight,
                                stride=2,
                            ),
                        ],
                        dim=1,
                    ),
                    module[1],
                )
                for s, module in zip(states, next(reductions), strict=True)
            ]
    return states[-1].mean((2, 3)) @ network.classifier.weight.T


@pytest.mark.parametrize("form", ["sum", "concatenation"])
@pytest.mark.parametrize("seed", range(4))
def test_it_computes_its_formulas(form: str, seed: int, fill_norms: Fill) -> None:
    closing = "all" if seed % 2 and form == "concatenation" else "none"
    network = supernet_of(form, fill_norms, seed, closing_norm=closing).train()
    genotype = drawn(seed)
    coefficients = coefficients_of(genotype, seed)
    of_places = dict(zip(coefficients[KIND].places, coefficients[KIND].values, strict=True))
    expected = reference(network, genotype, of_places, images(), form == "concatenation")
    found = network(images(), coefficients)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # and so does the discrete network, whose coefficients are 1
    alone = extract(network, genotype.places())
    ones = dict.fromkeys(of_places, torch.ones((), dtype=torch.float64))
    expected = reference(network, genotype, ones, images(), form == "concatenation")
    torch.testing.assert_close(alone(images()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_folding_is_exact(training: bool, seed: int, fill_norms: Fill) -> None:
    role = family(SPACE).roles["fold"]
    network = supernet_of(**role, fill_norms=fill_norms, seed=seed).train(training)
    coefficients = coefficients_of(drawn(seed), seed)
    folded = fold(network, coefficients)
    expected = network(images(), coefficients)
    torch.testing.assert_close(folded(images()), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(expected[0], expected[1])
    # its state is that of a network of its genotype
    shape = vars(folded.options)
    built = build_network(Genotype.of(folded), **shape).double().train(training)
    built.load_state_dict(folded.state_dict())
    torch.testing.assert_close(built(images()), folded(images()), rtol=0, atol=0)


def test_the_searches_form_cannot_be_folded(fill_norms: Fill) -> None:
    network = supernet_of("sum", fill_norms)
    with pytest.raises(UserError, match="closing_norm"):
        fold(network, coefficients_of(drawn(0)))


@pytest.mark.parametrize("form", ["sum", "concatenation"])
def test_only_active_operations_and_the_reductions_that_are_read_run(
    form: str, fill_norms: Fill
) -> None:
    network = supernet_of(form, fill_norms)
    genotype = Genotype.parse("0  1 1  2 0 1  3 0 0 0  4 0 0 1 0  5 0 0 0 0 0  0 0 0 0 0 0 1")
    ran: list[nn.Module] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    network(images(), coefficients_of(genotype))
    operations = network.cells[0].nodes.operations
    active = {SPACE.place_key(place) for place in genotype.places()[KIND]}
    if form == "concatenation":  # skips are run together, as one convolution
        active = {key for key in active if not key.endswith(SKIP)}
    assert {key for key, module in operations.items() if module in ran} == active
    # after layer 1 layer 2 reads the states 1 and 2; after layer 3 layer 4 reads 2 and 4; layer 6 reads 5
    read = [[i for i, module in enumerate(level) if module in ran] for level in network.reductions]
    assert read == [[1, 2], [2, 4]]


def test_weights_of_what_does_not_run_have_no_gradient(fill_norms: Fill) -> None:
    network = supernet_of("concatenation", fill_norms).train()
    genotype = drawn(1)
    network(images(), coefficients_of(genotype)).square().sum().backward()
    active = {SPACE.place_key(place) for place in genotype.places()[KIND]}
    for key, module in network.cells[0].nodes.operations.items():
        with_gradient = [p.grad is not None for p in module.parameters()]
        assert all(with_gradient) if key in active else not any(with_gradient), key


def test_channels_double_in_the_final_network_only() -> None:
    for form, features in (("sum", 4), ("concatenation", 16)):
        network = build_supernet(SPACE, channels=4, form=form)
        assert network.features == features


def test_several_operations_of_a_layer_are_added(fill_norms: Fill) -> None:
    """As softmax weights run all: with weights 1 and 0 it is one of them."""
    network = supernet_of("sum", fill_norms).eval()
    genotype = drawn(2)
    chosen = genotype.places()[KIND]
    everything = SPACE.places()
    values = torch.tensor([float(place in chosen) for place in everything], dtype=torch.float64)
    expected = network(images(), {KIND: Coefficients(torch.ones(len(chosen)).double(), chosen)})
    found = network(images(), {KIND: Coefficients(values, everything)})
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_with_the_coefficients_of_a_sparse_code_the_gradient_reaches_b(fill_norms: Fill) -> None:
    network = supernet_of("sum", fill_norms).train()
    code = SparseCode(SPACE, SparseCodeOptions(init_scale=0.3), seed=1).double()
    network(images(), code.coefficients()).square().sum().backward()
    assert all(b.grad is not None for b in code.b)
    assert sum(float(b.grad.norm()) > 0 for b in code.b) >= len(code.b) - 1


def test_dropout_multiplies_what_the_classifier_reads(fill_norms: Fill) -> None:
    network = extract(supernet_of("concatenation", fill_norms), drawn(0).places()).eval()
    mask = torch.zeros(5, 16, dtype=torch.float64)
    assert not network(images(), dropout=mask).any()  # no bias
    mask[:, 3] = 2.0
    whole = network(images(), dropout=mask)
    features: list[Tensor] = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(images())
    expected = 2 * features[0][:, 3:4] * network.classifier.weight[:, 3]
    torch.testing.assert_close(whole, expected)


def test_drop_path_silences_operations_alone(fill_norms: Fill) -> None:
    network = extract(supernet_of("sum", fill_norms), drawn(3).places()).eval()
    places = network.places[KIND]
    mask = torch.ones(len(places), 5, dtype=torch.float64)
    torch.testing.assert_close(network(images(), drop_path_mask=mask), network(images()))
    skips = [i for i, place in enumerate(places) if place.source < place.node]
    mask[skips] = 0.0
    torch.testing.assert_close(network(images(), drop_path_mask=mask), network(images()))
    mask = torch.ones_like(mask)
    mask[[i for i in range(len(places)) if i not in skips]] = 0.0
    assert not torch.allclose(network(images(), drop_path_mask=mask), network(images()))


def test_odd_sizes_and_small_images_run() -> None:
    network = build_supernet(SPACE, channels=2, in_channels=2).double()
    for size in (1, 5, 9):
        code = SparseCode(SPACE, SparseCodeOptions()).double()
        assert network(images(size), code.coefficients()).shape == (5, 10)


@pytest.mark.parametrize("seed", range(3))
def test_costs_of_places_add_up_to_the_folded_networks_parameters(
    seed: int, fill_norms: Fill
) -> None:
    network = supernet_of(**family(SPACE).roles["fold"], fill_norms=fill_norms)
    costs = PlaceCosts(network)
    coefficients = coefficients_of(drawn(seed), seed)
    places = {KIND: coefficients[KIND].places}
    assert costs.parameters(places) == count_parameters(fold(network, coefficients))
    # the smallest: pooling everywhere and as few skips as may be
    options = SparseCodeOptions(sparsity="lam")
    pooling = [Place(layer, layer, 4) for layer in range(SPACE.layers)]
    assert costs.least(options.fewest(SPACE)) == costs.parameters({KIND: pooling})
