"""The language model computes what DARTS's equations say, in search and when found, and folds exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isnas import (
    CellNetwork,
    Coefficients,
    Genotype,
    build_network,
    build_supernet,
    count_multiply_adds,
    count_parameters,
    fold,
    get_space,
)
from isnas.networks.folding import extract
from isnas.networks.recurrent import RecurrentNetwork
from isnas.spaces.recurrent import GENOTYPES

SPACE = get_space("recurrent")
ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
NO_DROPOUT = {f"dropout{part}": 0.0 for part in ("", "_words", "_embedding", "_input", "_hidden")}
SMALL = {"width": 6, "vocabulary": 11, **NO_DROPOUT}


def naive(network: RecurrentNetwork, genotype: Genotype, x: Tensor, hidden: Tensor) -> Tensor:
    """Return the logits of a discrete network, written out step by step and unit by unit (DARTS, appendix A)."""
    cell, width = network.cells[0], network.options.width
    cell_genotype = genotype["recurrent"]
    logits = []
    h = hidden
    for t in range(len(x)):
        word = network.embedding[x[t]]
        product = torch.cat([word, h], dim=1) @ cell.weight
        c, u = product[:, :width], product[:, width:]
        states = [h + torch.sigmoid(c) * (torch.tanh(u) - h)]
        for node, (edge,) in enumerate(cell_genotype.nodes):
            s = states[edge.source]
            if network.options.matrices == "node":
                matrix = cell.nodes.weights[node]
            else:
                key = f"node{node}_from{edge.source}_{edge.operation}"
                matrix = cell.nodes.operations[key].weight
            product = s @ matrix
            c, u = product[:, :width], product[:, width:]
            states.append(s + torch.sigmoid(c) * (ACTIVATIONS[edge.operation](u) - s))
        h = sum(states[i] for i in cell_genotype.concat) / len(cell_genotype.concat)
        logits.append(h @ network.embedding.T + network.bias)
    return torch.stack(logits)


def scrambled(network: CellNetwork, seed: int = 1) -> CellNetwork:
    """Return the network in float64, with weights of a size that makes every part count."""
    random = torch.Generator().manual_seed(seed)
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return network


def words(steps: int = 5, streams: int = 3, vocabulary: int = 11) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(vocabulary, (steps, streams), generator=random)


@pytest.mark.parametrize("matrices", ["node", "place"])
@pytest.mark.parametrize("name", GENOTYPES)
def test_a_found_network_is_the_naive_one(name: str, matrices: str) -> None:
    genotype = GENOTYPES[name]
    network = scrambled(build_network(genotype, matrices=matrices, **SMALL))
    hidden = torch.randn(3, 6, dtype=torch.float64)
    found = network(words(), hidden=hidden)
    expected = naive(network, genotype, words(), hidden)
    torch.testing.assert_close(found.logits, expected, rtol=1e-12, atol=1e-12)
    # in two pieces
    first = network(words()[:2], hidden=hidden)
    second = network(words()[2:], hidden=first.hidden)
    torch.testing.assert_close(
        torch.cat([first.logits, second.logits]), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("matrices", ["node", "place"])
def test_a_supernets_node_adds_up_its_normed_places(matrices: str) -> None:
    space = get_space("recurrent", nodes=2)
    network = scrambled(build_supernet(space, matrices=matrices, closing_norm="all", **SMALL))
    places = space.places()
    values = torch.randn(len(places), dtype=torch.float64, requires_grad=True)
    x, h = words(1), torch.randn(3, 6, dtype=torch.float64)
    cell = network.cells[0]
    product = torch.cat([network.embedding[x[0]], h], dim=1) @ cell.weight
    states = [h + torch.sigmoid(product[:, :6]) * (torch.tanh(product[:, 6:]) - h)]
    for node in range(2):
        total = torch.zeros(3, 6, dtype=torch.float64)
        for place, value in zip(places, values, strict=True):
            if place.node != node:
                continue
            operation = cell.nodes.operations[space.place_key(place)]
            s = states[place.source]
            matrix = cell.nodes.weights[node] if matrices == "node" else operation.weight
            product = s @ matrix
            f = ACTIVATIONS[space.primitives[place.operation]]
            out = s + torch.sigmoid(product[:, :6]) * (f(product[:, 6:]) - s)
            norm = operation.norm
            total = total + value * F.layer_norm(out, (6,), norm.weight, norm.bias, norm.eps)
        states.append(total)
    expected = (states[1] + states[2]) / 2
    found = network(x, {"recurrent": Coefficients(values, places)}, hidden=h)
    torch.testing.assert_close(found.hidden, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_coefficients_are_those_of_finite_differences() -> None:
    network = scrambled(build_supernet(SPACE, closing_norm="all", **SMALL))
    places = GENOTYPES["DARTS_V2"].places()["recurrent"]
    values = torch.linspace(-1, 1.5, 8, dtype=torch.float64).requires_grad_()

    def loss(values: Tensor) -> Tensor:
        logits = network(words(), {"recurrent": Coefficients(values, places)}).logits
        return F.cross_entropy(logits.flatten(0, 1), words().flatten())

    assert torch.autograd.gradcheck(loss, (values,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss(values), values)
    # the norm stands before the coefficient: its size counts
    assert (gradient.abs() > 1e-6).all()


@pytest.mark.parametrize("matrices", ["node", "place"])
def test_folding_is_exact(matrices: str) -> None:
    network = scrambled(build_supernet(SPACE, matrices=matrices, closing_norm="all", **SMALL))
    values = torch.linspace(-1, 1.5, 8, dtype=torch.float64)
    coefficients = {"recurrent": Coefficients(values, GENOTYPES["DARTS_V1"].places()["recurrent"])}
    folded = fold(network, coefficients)
    expected = network(words(), coefficients).logits
    assert (folded(words()).logits - expected).abs().max() <= 1e-12 * expected.abs().max()
    # a plain network: its state is that of the network of its genotype
    plain = build_network(
        Genotype.of(folded), matrices=matrices, closing_norm="all", **SMALL
    ).double()
    plain.load_state_dict(folded.state_dict())
    torch.testing.assert_close(plain(words()).logits, folded(words()).logits)


def test_inactive_places_cost_nothing_and_get_nothing() -> None:
    network = build_supernet(SPACE, closing_norm="all", **SMALL)
    places = GENOTYPES["DARTS_V1"].places()["recurrent"]
    coefficients = {"recurrent": Coefficients(torch.ones(8), places)}
    network(words(), coefficients).logits.sum().backward()
    active = {SPACE.place_key(place) for place in places}
    for key, operation in network.cells[0].nodes.operations.items():
        assert (operation.norm.weight.grad is not None) == (key in active)
    found = extract(network, {"recurrent": places})
    torch.testing.assert_close(found(words()).logits, network(words(), coefficients).logits)


@pytest.mark.parametrize(
    ("vocabulary", "width", "expected"),
    [
        (10_000, 850, 22_960_000),  # DARTS on Penn Treebank, published 23 M
        (33_278, 700, 33_127_878),  # on WikiText-2, published 33 M
        (10_000, 300, 4_810_000),  # its search on Penn Treebank
    ],
)
def test_parameters_are_the_published_ones(vocabulary: int, width: int, expected: int) -> None:
    with torch.device("meta"):
        network = build_network(GENOTYPES["DARTS_V2"], width=width, vocabulary=vocabulary)
    assert count_parameters(network) == expected
    # a word takes a product with every matrix, and with the embedding
    assert count_multiply_adds(network, (1,)) == expected - vocabulary


def test_dropout_masks_stay_for_a_piece() -> None:
    rates = {"dropout_hidden": 0.5, "dropout_input": 0.25, "dropout_words": 0.5, "dropout": 0.75}
    network = build_network(
        GENOTYPES["DARTS_V2"], width=400, vocabulary=500, **{**NO_DROPOUT, **rates}
    )
    masks = network.draw_masks(8, torch.Generator().manual_seed(0))
    assert masks.embedding is None
    for mask, rate in (
        (masks.hidden, 0.5),
        (masks.input, 0.25),
        (masks.words, 0.5),
        (masks.output, 0.75),
    ):
        kept = mask > 0
        assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert abs(float(kept.float().mean()) - (1 - rate)) < 0.1
    # the same word, dropped, at all times: one mask for all time steps of a stream
    x = torch.randint(500, (6, 8))
    found = network.train()(x, random=torch.Generator().manual_seed(0))
    dead = (masks.output == 0).expand_as(found.dropped)
    assert (found.dropped[dead] == 0).all()
    again = network(x, random=torch.Generator().manual_seed(0))
    assert torch.equal(found.logits, again.logits)
    assert not torch.equal(found.logits, network(x).logits)
    network.eval()
    assert torch.equal(
        network(x, random=torch.Generator().manual_seed(0)).logits, network(x).logits
    )
