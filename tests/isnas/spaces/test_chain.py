"""Chains are written, read and told apart as NAS-Bench-Macro does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isnas import CellGenotype, Edge, Genotype, UserError, get_space
from isnas.codes.choices import Choices
from isnas.spaces.chain import (
    CHAIN_SPACE,
    FIRST_LAYERS,
    KIND,
    all_networks,
    canonical_string,
    parse_string,
    to_string,
)
from isnas.spaces.nasbench201 import NASBENCH201_SPACE

TEXT = "01221100"


def chain(*layers: tuple[tuple[str, int], ...], output: tuple[int, ...] = (8,)) -> Genotype:
    nodes = tuple(tuple(Edge(*edge) for edge in edges) for edges in layers)
    return Genotype(CHAIN_SPACE, ((KIND, CellGenotype(nodes, output, 1)),))


IDENTITIES = tuple((("identity", layer),) for layer in range(8))


def test_all_networks_survive_writing_and_reading() -> None:
    assert len(set(all_networks())) == 3**8
    for text in all_networks()[::37]:
        genotype = parse_string(text)
        assert str(genotype) == to_string(genotype) == text
        assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
        assert Genotype.from_places(genotype.places(), CHAIN_SPACE) == genotype


def test_a_text_is_read_as_it_is_named(tmp_path: Path) -> None:
    """A text needs no space, a file may hold one, and a file goes before a text."""
    genotype = parse_string(TEXT)
    assert Genotype.parse(f" {TEXT}\n") == Genotype.load(TEXT) == genotype
    assert Genotype.load(TEXT, CHAIN_SPACE) == genotype
    (tmp_path / "g.txt").write_text(TEXT + "\n")
    assert Genotype.load(tmp_path / "g.txt") == genotype
    genotype.save(tmp_path / "g.json")
    assert Genotype.load(tmp_path / "g.json") == genotype
    cell = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    assert Genotype.load(cell) == Genotype.parse(cell, NASBENCH201_SPACE)


def test_a_file_goes_before_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(TEXT).write_text("22222222")
    assert str(Genotype.load(TEXT)) == "22222222"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0122", "'0122' has 4 layers; expected 8 digits"),
        ("012211000", "has 9 layers"),
        ("01231100", "layer 3 has the unknown operation '3'"),
        ("0122110x", "layer 7 has the unknown operation 'x'"),
        ("0" * 1000, "has 1000 layers"),
        ("", "has 0 layers"),
    ],
)
def test_any_other_text_is_refused_by_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        Genotype.parse(text, CHAIN_SPACE)
    assert named in str(refused.value)
    assert "0 identity, 1 mb3_conv_3x3, 2 mb6_conv_5x5" in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("layers", "output", "named"),
    [
        (IDENTITIES[:7], (7,), "7 nodes and 1 inputs; expected 8 nodes"),
        ((*IDENTITIES[:7], ()), (8,), "layer 7 has 0 operations; expected one"),
        (
            (*IDENTITIES[:7], (("identity", 7), ("mb3_conv_3x3", 7))),
            (8,),
            "layer 7 has 2 operations",
        ),
        (
            (*IDENTITIES[:7], (("identity", 3),)),
            (8,),
            "layer 7 reads state 3; expected state 7",
        ),
        ((*IDENTITIES[:7], (("sep_conv_3x3", 7),)), (8,), "unknown operation 'sep_conv_3x3'"),
        (IDENTITIES, (7, 8), "made of the states (7, 8)"),
    ],
)
def test_another_genotype_is_refused_by_what_is_wrong(
    layers: tuple[tuple[tuple[str, int], ...], ...], output: tuple[int, ...], named: str
) -> None:
    with pytest.raises(UserError) as refused:
        chain(*layers, output=output)
    assert named in str(refused.value)


def test_3969_networks_are_different() -> None:
    """Stage 1 has a layer behind its first one: 3 x 3 ways. Stages 2 and 3 have two: 3 x (9 - 2)."""
    forms = {canonical_string(text) for text in all_networks()}
    assert len(forms) == 9 * 21 * 21
    assert all(canonical_string(form) == form for form in forms)
    assert canonical_string("00001002") == "00010020"
    # the first layer of a stage stays: there an identity is a convolution
    assert all(
        canonical_string(text)[first] == text[first]
        for text in all_networks()[::11]
        for first in FIRST_LAYERS
    )
    assert str(parse_string("00001002").canonical()) == "00010020"
    assert parse_string(TEXT).canonical() == parse_string(canonical_string(TEXT))


def test_each_layer_has_one_choice_of_three() -> None:
    assert get_space("chain") == CHAIN_SPACE
    assert [choice.key for choice in CHAIN_SPACE.choices] == [f"network.{i}" for i in range(8)]
    for layer, choice in enumerate(CHAIN_SPACE.choices):
        assert choice.members == ((0, 1, 2),)
        assert (choice.least, choice.most, choice.s) == (1, 1, 1)
        assert {place.source for place in choice.candidates} == {layer}
        assert not choice.optional
    choices = Choices(CHAIN_SPACE)
    assert choices.size == 3**8
    assert {str(genotype) for genotype in choices.all()} == set(all_networks())
    assert parse_string("01020120").skips == 4


def test_neighbours_differ_in_one_layer() -> None:
    choices, random = Choices(CHAIN_SPACE), torch.Generator().manual_seed(0)
    here = parse_string(TEXT)
    found = set()
    for _ in range(300):
        text = str(choices.mutate(here, random))
        assert sum(a != b for a, b in zip(text, TEXT, strict=True)) == 1
        found.add(text)
    assert len(found) == 16
    child = str(choices.crossover(here, parse_string("22222222"), random))
    assert all(c in (a, "2") for c, a in zip(child, TEXT, strict=True))


def test_the_grid_is_the_space() -> None:
    choices = Choices(CHAIN_SPACE)
    assert choices.grid_size() == 3**8
    few = [str(genotype) for genotype in choices.grid(["identity", "mb3_conv_3x3"])]
    assert len(set(few)) == 2**8
    assert not any("2" in text for text in few)
