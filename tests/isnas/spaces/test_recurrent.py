"""Recurrent cells are written as DARTS writes them, and the published ones are found by name in their own space."""

from __future__ import annotations

import pytest
import torch

from isnas import Edge, Genotype, UserError, get_space
from isnas.codes.choices import Choices
from isnas.spaces import SPACES, from_json, published
from isnas.spaces.recurrent import GENOTYPES, RecurrentSpace

DARTS_V1 = (
    "Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3), ('relu', 4), ('identity', 1), "
    "('relu', 5), ('relu', 1)], concat=range(1, 9))"
)
"""As it stands in the published code of DARTS."""


def test_darts_text_form_is_read_and_written() -> None:
    genotype = Genotype.parse(DARTS_V1)
    assert str(genotype) == DARTS_V1
    assert genotype.space == RecurrentSpace()
    assert genotype == GENOTYPES["DARTS_V1"]


@pytest.mark.parametrize("name", GENOTYPES)
def test_published_cells_survive_text_and_json(name: str) -> None:
    genotype = GENOTYPES[name]
    assert Genotype.parse(str(genotype)) == genotype
    assert Genotype.from_json(genotype.to_json()) == genotype


def test_the_published_enas_cell_gives_the_mean_of_the_states_that_no_node_reads() -> None:
    cell = GENOTYPES["ENAS"]["recurrent"]
    read = {edge.source for (edge,) in cell.nodes}
    assert cell.concat == tuple(state for state in range(1, 12) if state not in read)


def test_enas_controllers_numbers_are_its_published_cell() -> None:
    """The corrected code writes (predecessor, function) pairs, functions tanh, relu, sigmoid, identity."""
    numbers = [0, 2, 1, 0, 2, 1, 2, 2, 4, 0, 5, 0, 3, 2, 6, 2]
    functions = ("tanh", "relu", "sigmoid", "identity")
    edges = [(Edge(functions[f], p),) for p, f in zip(numbers[::2], numbers[1::2], strict=True)]
    assert GENOTYPES["ENAS_LM"]["recurrent"].nodes == tuple(edges)


def test_one_name_means_different_cells_in_different_spaces() -> None:
    images = Genotype.load("DARTS_V2")
    words = Genotype.load("DARTS_V2", get_space("recurrent"))
    assert (images.space.name, words.space.name) == ("darts", "recurrent")
    assert Genotype.load("DARTS_V1").space.name == "recurrent"  # there is no other of that name
    assert set(published(get_space("recurrent"))) == {"DARTS_V1", "DARTS_V2", "ENAS", "ENAS_LM"}


def test_the_number_of_nodes_is_free() -> None:
    space = get_space("recurrent", nodes=3)
    assert from_json(space.to_json()) == space
    text = "Genotype(recurrent=[('tanh', 0), ('relu', 0), ('sigmoid', 2)], concat=range(1, 4))"
    assert Genotype.parse(text).space == space
    assert space.parse(text) == Genotype.parse(text)


def test_every_node_chooses_one_place_of_all_earlier_states() -> None:
    space = SPACES["recurrent"]()
    assert [len(choice.candidates) for choice in space.choices] == [4 * n for n in range(1, 9)]
    assert {(c.least, c.most, c.s) for c in space.choices} == {(1, 1, 1)}
    # 4^8 * 8!
    assert Choices(space).size == 4**8 * 40320


def test_random_and_mutated_cells_are_cells() -> None:
    choices = Choices(get_space("recurrent"))
    random = torch.Generator().manual_seed(0)
    one = choices.random(random)
    other = choices.mutate(one, random)
    different = [
        a != b for a, b in zip(one["recurrent"].nodes, other["recurrent"].nodes, strict=True)
    ]
    assert sum(different) == 1
    assert len(list(choices.grid())) == 8  # four activations, two wirings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(recurrent=[('tanh', 0)])", "expected \\['concat', 'recurrent'\\]"),
        ("Genotype(recurrent=[('cosh', 0)], concat=[1])", "unknown operation 'cosh'"),
        ("Genotype(recurrent=[('tanh', 1)], concat=[1])", "can read states 0 to 0 only"),
        ("Genotype(recurrent=[('tanh', 0)], concat=[0])", "concat"),
        ("Genotype(recurrent=3, concat=[1])", "must be lists"),
        ("Genotype(recurrent=[], concat=[1])", "at least one node"),
        ("Genotype(recurrent=__import__('os'), concat=[1])", "neither a list"),
    ],
)
def test_nonsense_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Genotype.parse(text)
    assert "\n" not in str(caught.value)


def test_a_cell_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="recurrent cell has 1 nodes and 1 inputs; expected 8"):
        Genotype.parse("Genotype(recurrent=[('tanh', 0)], concat=[1])", get_space("recurrent"))


def test_a_node_reads_one_state() -> None:
    data = GENOTYPES["DARTS_V1"].to_json()
    data["cells"]["recurrent"]["nodes"][3] = [["tanh", 0], ["relu", 1]]
    with pytest.raises(UserError, match="node 3 of the recurrent cell has 2 incoming operations"):
        Genotype.from_json(data)
