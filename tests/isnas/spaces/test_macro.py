"""ENAS's macro space: its text form, its choices, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from isnas import Genotype, Place, UserError
from isnas.codes.choices import Choices
from isnas.spaces import from_json, get, published
from isnas.spaces.macro import KIND, OPERATIONS, SKIP, MacroSpace

SPACE = MacroSpace(layers=4)
TEXT = "5 0 1 3 0 1 2 1 0 0"


def test_the_numbers_are_read_as_enas_writes_them() -> None:
    """A layer's operation by its number, then a bit for each state: the stem, layer 0, ...; not the layer before."""
    genotype = Genotype.parse(TEXT)
    assert genotype.space == SPACE
    assert [{tuple(edge) for edge in edges} for edges in genotype[KIND].nodes] == [
        {("max_pool_3x3", 0)},
        {("conv_3x3", 1), (SKIP, 0)},
        {("sep_conv_5x5", 2), (SKIP, 1)},
        {("conv_5x5", 3), (SKIP, 0)},
    ]
    assert genotype[KIND].concat == (4,)


def test_text_and_places_lead_to_equal_genotypes() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        genotype = Choices(SPACE).random(random)
        assert Genotype.parse(str(genotype)) == genotype
        assert Genotype.from_json(genotype.to_json()) == genotype
        assert Genotype.from_places(genotype.places(), SPACE) == genotype
    several_lines = TEXT.replace(" 3 ", "\n3\n")
    assert str(Genotype.parse(several_lines)) == TEXT


def test_every_text_of_three_layers_is_an_architecture_once() -> None:
    found = {str(genotype) for genotype in Choices(MacroSpace(layers=3)).all()}
    bits = list(itertools.product("01", repeat=3))
    numbers = list(itertools.product("012345", repeat=3))
    expected = {f"{a} {b} {i} {c} {j} {k}" for a, b, c in numbers for i, j, k in bits}
    assert found == expected


def test_number_of_architectures() -> None:
    assert Choices(get("macro")).size == 6**12 * 2**66


def test_the_published_network() -> None:
    genotype = Genotype.load("ENAS_macro")
    assert genotype.space == MacroSpace(layers=24)
    assert published()["ENAS_macro"] == genotype
    assert genotype.skips == 98
    words = str(genotype).split()
    assert len(words) == 300
    assert " ".join(words[-24:]) == "0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0"
    # a chain has one numbering, found without trying 24! of them
    assert str(genotype.canonical()) == str(genotype)


def test_choices() -> None:
    space = get("macro", layers=6)
    assert [choice.key for choice in space.choices[:4]] == [
        "network.0.operation",
        "network.1.operation",
        "network.1.skips",
        "network.2.operation",
    ]
    for choice in space.choices:
        layer = choice.node
        if choice.name == "operation":
            assert (choice.least, choice.most, choice.s, choice.yes_or_no) == (1, 1, 1, False)
            assert choice.candidates == tuple(Place(layer, layer, i) for i in range(6))
        else:
            assert (choice.least, choice.most, choice.yes_or_no) == (0, layer, True)
            assert choice.candidates == tuple(Place(layer, i, 6) for i in range(layer))
            assert choice.s == max(1, round(0.4 * layer))
    assert from_json(space.to_json()) == space


REFUSED = {
    "too few": ("0 3 0 1", "3 layers take 6 numbers, .* got 4"),
    "operation": (
        TEXT.replace("5", "6", 1),
        "layer 0 has the operation '6'; expected .* 0 conv_3x3",
    ),
    "long number": (TEXT.replace("5", "9" * 30, 1), "layer 0 has the operation '9{19};"),
    "skip": ("0 3 2 0 1 0", "layer 1 has '2' for the skip from state 0; expected 0 or 1"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Genotype.parse(text)


WRONG = {
    "no operation": ({}, "layer 0 has 0 operations; expected one"),
    "two operations": ({0: [0, 1]}, "layer 0 has 2 operations; expected one"),
}


@pytest.mark.parametrize(("operations", "message"), WRONG.values(), ids=WRONG)
def test_a_layer_has_one_operation(operations: dict[int, list[int]], message: str) -> None:
    rest = [Place(layer, layer, 0) for layer in (1, 2, 3)]
    own = [Place(layer, layer, i) for layer, which in operations.items() for i in which]
    with pytest.raises(UserError, match=message):
        Genotype.from_places({KIND: own + rest}, SPACE)


def test_what_a_layer_reads_is_checked() -> None:
    chain = [Place(layer, layer, 0) for layer in range(4)]
    with pytest.raises(
        UserError, match="layer 2 has a skip from state 2, which its operation reads"
    ):
        Genotype.from_places({KIND: [*chain, Place(2, 2, 6)]}, SPACE)
    with pytest.raises(UserError, match="operation of layer 2 reads state 1; expected state 2"):
        Genotype.from_places({KIND: [*chain[:2], Place(2, 1, 0), chain[3]]}, SPACE)
    with pytest.raises(UserError, match=r"made of the states \(3, 4\); expected .* last layer"):
        Genotype.from_places({KIND: chain}, SPACE, {KIND: (3, 4)})


@pytest.mark.parametrize("layers", [2, 101, 3.0, True])
def test_unusable_numbers_of_layers(layers: object) -> None:
    with pytest.raises(UserError, match="layers must be 3 to 100"):
        get("macro", layers=layers)


def test_random_networks_have_every_operation_and_half_of_the_skips() -> None:
    choices, random = Choices(get("macro", layers=5)), torch.Generator().manual_seed(1)
    drawn = [choices.random(random) for _ in range(400)]
    skips = sum(genotype.skips for genotype in drawn)
    assert abs(skips - 2000) < 4 * (4000 * 0.25) ** 0.5
    words = [str(genotype).split()[0] for genotype in drawn]
    counts = [words.count(str(i)) for i in range(len(OPERATIONS))]
    assert sum((n - 400 / 6) ** 2 / (400 / 6) for n in counts) < 20.5  # 99.9 % of chi-square, 5


def test_mutations_change_one_operation_or_one_skip_equally_often() -> None:
    choices, random = Choices(get("macro", layers=6)), torch.Generator().manual_seed(2)
    genotype = choices.random(random)
    before = str(genotype).split()
    operations = {layer * (layer + 1) // 2 for layer in range(6)}
    of_operations = 0
    for _ in range(300):
        after = str(choices.mutate(genotype, random)).split()
        (changed,) = (i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        of_operations += changed in operations
    assert 150 - 4 * 75**0.5 < of_operations < 150 + 4 * 75**0.5


def test_a_grid_of_a_space_larger_than_a_machine_number_varies_all_its_decisions() -> None:
    points = [str(g).split() for g in Choices(get("macro")).grid(points=60)]
    assert len({tuple(words) for words in points}) == 60
    for decision in zip(*points, strict=True):
        assert len(set(decision)) > 1
