"""Genotypes survive being written, compare as graphs do, and refuse nonsense without running any of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isnas import DARTS_SPACE, GENOTYPES, CellGenotype, DartsSpace, Edge, Genotype, UserError
from isnas.codes.choices import Choices
from isnas.spaces.darts import PRIMITIVES

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
    "reduce_concat=range(2, 6))"
)
"""As it stands in the published code of DARTS."""


def draw_cell(
    draw: random.Random, nodes: int = 4, inputs: int = 2, operations: tuple[str, ...] = PRIMITIVES
) -> CellGenotype:
    """Any number of incoming operations per node, in any order; any states concatenated."""
    written = []
    for node in range(nodes):
        edges = [Edge(o, i) for o in operations for i in range(inputs + node)]
        written.append(tuple(draw.sample(edges, draw.randint(0, min(5, len(edges))))))
    concat = draw.sample(range(inputs, inputs + nodes), draw.randint(1, nodes))
    return CellGenotype(tuple(written), tuple(concat), inputs)


def draw_genotype(draw: random.Random) -> Genotype:
    return Genotype(DARTS_SPACE, (("normal", draw_cell(draw)), ("reduction", draw_cell(draw))))


def isomorphic(a: CellGenotype, b: CellGenotype) -> bool:
    """Return whether some renaming of nodes turns one graph into the other: by trying all, order or no order."""

    def graph(
        cell: CellGenotype, name: tuple[int, ...]
    ) -> tuple[frozenset[object], frozenset[int]]:
        state = [*range(cell.inputs), *(cell.inputs + k for k in name)]
        edges = frozenset(
            (edge.operation, state[edge.source], state[cell.inputs + node])
            for node, incoming in enumerate(cell.nodes)
            for edge in incoming
        )
        return edges, frozenset(state[i] for i in cell.concat)

    if (len(a.nodes), a.inputs) != (len(b.nodes), b.inputs):
        return False
    names = tuple(range(len(a.nodes)))
    return graph(a, names) in [graph(b, name) for name in itertools.permutations(names)]


def rewritten(cell: CellGenotype, draw: random.Random) -> CellGenotype:
    """The same architecture with nodes in another order that keeps edges forward, and edges shuffled."""
    before: list[int] = []
    while len(before) < len(cell.nodes):
        ready = [
            node
            for node, edges in enumerate(cell.nodes)
            if node not in before
            and all(e.source < cell.inputs or e.source - cell.inputs in before for e in edges)
        ]
        before.append(draw.choice(ready))
    state = {i: i for i in range(cell.inputs)}
    state |= {cell.inputs + old: cell.inputs + new for new, old in enumerate(before)}
    nodes = []
    for old in before:
        edges = [Edge(e.operation, state[e.source]) for e in cell.nodes[old]]
        draw.shuffle(edges)
        nodes.append(tuple(edges))
    concat = [state[i] for i in cell.concat]
    draw.shuffle(concat)
    return CellGenotype(tuple(nodes), tuple(concat), cell.inputs)


class TestWriting:
    @pytest.mark.parametrize("name", GENOTYPES)
    def test_published_genotypes_survive_text_json_and_files(
        self, name: str, tmp_path: Path
    ) -> None:
        genotype = GENOTYPES[name]
        assert Genotype.parse(str(genotype)) == genotype
        assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
        genotype.save(tmp_path / "g.json")
        (tmp_path / "g.txt").write_text(f"\n{genotype}\n")
        assert Genotype.load(tmp_path / "g.json") == genotype
        assert Genotype.load(str(tmp_path / "g.txt")) == genotype
        assert Genotype.load(name) == genotype

    @given(st.randoms(use_true_random=False))
    def test_any_genotype_survives_text_and_json(self, draw: random.Random) -> None:
        genotype = draw_genotype(draw)
        assert Genotype.parse(str(genotype)) == genotype
        assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype

    def test_text_is_that_of_darts(self) -> None:
        assert str(GENOTYPES["DARTS_V2"]) == DARTS_V2
        assert Genotype.parse(DARTS_V2) == GENOTYPES["DARTS_V2"]

    @given(st.integers(0, 2**32))
    def test_text_of_two_operations_per_node_is_read_by_darts_own_way(self, seed: int) -> None:
        genotype = Choices(DARTS_SPACE).random(torch.Generator().manual_seed(seed))
        form = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
        read = eval(str(genotype), {"Genotype": form, "range": range, "__builtins__": {}})
        for pairs, concat, kind in (
            (read.normal, read.normal_concat, "normal"),
            (read.reduce, read.reduce_concat, "reduction"),
        ):
            assert pairs == [tuple(edge) for edges in genotype[kind].nodes for edge in edges]
            assert tuple(concat) == genotype[kind].concat

    def test_white_space_and_line_breaks_carry_no_meaning(self) -> None:
        spaced = DARTS_V2.replace(", ", " ,\n\t").replace("(", "( ")
        assert Genotype.parse(f"  {spaced}\n") == GENOTYPES["DARTS_V2"]

    def test_spaces_of_other_sizes_are_written_too(self) -> None:
        space = DartsSpace(primitives=("skip_connect", "sep_conv_3x3"), nodes=2)
        genotype = Choices(space, (1, 3)).random(torch.Generator().manual_seed(1))
        assert Genotype.parse(str(genotype), space) == genotype
        assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
        with pytest.raises(UserError, match="2 nodes"):
            Genotype.parse(str(genotype))

    @given(st.randoms(use_true_random=False))
    def test_places_and_back(self, draw: random.Random) -> None:
        nodes = [draw_cell(draw).nodes for _ in range(2)]
        cells = (CellGenotype(each, (2, 3, 4, 5)) for each in nodes)
        genotype = Genotype(DARTS_SPACE, tuple(zip(("normal", "reduction"), cells, strict=True)))
        places = genotype.places(DARTS_SPACE)
        again = Genotype.from_places(places, DARTS_SPACE)
        assert again.places(DARTS_SPACE) == places
        for kind in DARTS_SPACE.kinds:
            assert list(map(set, again[kind].nodes)) == list(map(set, genotype[kind].nodes))
            assert len(places[kind]) == sum(map(len, genotype[kind].nodes))

    def test_genotypes_are_immutable_and_hashable(self) -> None:
        genotype = GENOTYPES["DARTS_V2"]
        assert len({genotype, Genotype.parse(DARTS_V2)}) == 1
        with pytest.raises(AttributeError):
            genotype["normal"].concat = (2,)


class TestCanonicalForm:
    @given(st.randoms(use_true_random=False))
    def test_same_for_all_ways_to_write_an_architecture(self, draw: random.Random) -> None:
        genotype = draw_genotype(draw)
        other = Genotype(DARTS_SPACE, tuple((k, rewritten(c, draw)) for k, c in genotype.cells))
        assert other.canonical() == genotype.canonical()

    @given(st.randoms(use_true_random=False))
    def test_is_a_way_to_write_the_same_architecture(self, draw: random.Random) -> None:
        cell = draw_cell(draw)
        assert isomorphic(cell, cell.canonical())
        assert cell.canonical().canonical() == cell.canonical()

    def test_tells_apart_exactly_what_is_not_isomorphic(self) -> None:
        """All cells of three nodes over one input and one operation, each with each."""
        choices = [
            [tuple(Edge("skip_connect", i) for i in chosen) for chosen in subsets(1 + node)]
            for node in range(3)
        ]
        cells = [CellGenotype(nodes, (1, 2, 3), 1) for nodes in itertools.product(*choices)]
        assert len(cells) == 64
        canonical = [cell.canonical() for cell in cells]
        outcomes = set()
        for (a, form_a), (b, form_b) in itertools.product(
            zip(cells, canonical, strict=True), repeat=2
        ):
            same = isomorphic(a, b)
            assert (form_a == form_b) == same, (a, b)
            outcomes.add(same)
        assert outcomes == {True, False}

    @settings(max_examples=150)
    @given(st.randoms(use_true_random=False))
    def test_tells_apart_cells_with_different_operations_or_outputs(
        self, draw: random.Random
    ) -> None:
        a, b = (draw_cell(draw, 3, 1, ("max_pool_3x3", "skip_connect")) for _ in range(2))
        assert (a.canonical() == b.canonical()) == isomorphic(a, b)

    def test_inputs_of_the_cell_are_not_interchangeable(self) -> None:
        a, b = (CellGenotype(((Edge("skip_connect", i),),), (2,)) for i in (0, 1))
        assert a.canonical() != b.canonical()


def subsets(n: int) -> list[tuple[int, ...]]:
    return [c for size in range(n + 1) for c in itertools.combinations(range(n), size)]


NORMAL = (
    "[('skip_connect', 0)], [('skip_connect', 1)], [('skip_connect', 1)], [('skip_connect', 1)]"
)


def text(normal: str = f"[{NORMAL}]", concat: str = "range(2, 6)") -> str:
    return (
        f"Genotype(normal={normal}, normal_concat={concat}, "
        f"reduce=[{NORMAL}], reduce_concat=range(2, 6))"
    )


def refusal(written: str) -> str:
    with pytest.raises(UserError) as caught:
        Genotype.parse(written)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


class TestRefusals:
    def test_the_form_that_the_cases_below_vary_is_right(self) -> None:
        assert Genotype.parse(text())["normal"].nodes[1] == (Edge("skip_connect", 1),)

    @pytest.mark.parametrize(
        ("written", "named"),
        [
            (text().replace("skip", "slip", 1), "slip_connect"),
            (text().replace("('skip_connect', 0)", "('skip_connect', 2)", 1), "state 2"),
            (text().replace("('skip_connect', 0)", "('skip_connect', -1)", 1), "state -1"),
            (text().replace("('skip_connect', 0)", "('skip_connect', 99)", 1), "state 99"),
            (text(f"[{NORMAL}, [('skip_connect', 1)]]", "range(2, 7)"), "5 nodes"),
            (text("[[('skip_connect', 0)]]", "[2]"), "1 nodes"),
            (text("[]"), "at least one node"),
            (text("[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0)]"), "3 pairs"),
            (text().replace("[('skip_connect', 0)]", "[('skip_connect', 0)] * 2", 1), "neither"),
            (
                text().replace("('skip_connect', 0)", "('skip_connect', 0), ('skip_connect', 0)"),
                "twice",
            ),
            (text(concat="[]"), "concat"),
            (text(concat="[2, 2]"), "concat"),
            (text(concat="[0, 1]"), "concat"),
            (text(concat="[5, 6]"), "concat"),
            (text(concat="3"), "lists"),
            (text(concat="[2.0, 3.0]"), "whole number"),
            (text(concat="[True]"), "whole number"),
            (text().replace("'skip_connect', 0", "'skip_connect', 0.0", 1), "whole number"),
            (text().replace("'skip_connect', 0", "'skip_connect'", 1), "pair"),
            (text().replace("'skip_connect', 0", "'skip_connect', 0, 0", 1), "pair"),
            (text().replace("'skip_connect', 0", "0, 'skip_connect'", 1), "pair"),
            (text().replace("'skip_connect', 0", "b'skip_connect', 0", 1), "pair"),
            (text().replace("Genotype", "Phenotype"), "form"),
            (text().replace("reduce_concat", "reduce_cat"), "reduce_concat"),
            (text()[:-1] + ", extra=[])", "extra"),
            (text()[:-1] + ", **{})", "fields"),
            (text().replace("normal=", "", 1), "form"),
            (text()[:60], "form"),
            ("", "form"),
            ("no genotype at all", "form"),
            ("Genotype()", "fields"),
            ("\0", "form"),
            ("[[[", "form"),
        ],
    )
    def test_nonsense_in_text_is_named(self, written: str, named: str) -> None:
        assert named in refusal(written)

    @pytest.mark.parametrize(
        "code",
        [
            "__import__('pathlib').Path({path!r}).touch()",
            "open({path!r}, 'w')",
            "[open({path!r}, 'w') for _ in range(1)]",
            "(lambda: open({path!r}, 'w'))()",
            "f'{{open({path!r}, \"w\")}}'",
            "(x := open({path!r}, 'w'))",
            "[*open({path!r}, 'w')]",
            "range(2, open({path!r}, 'w'))",
            "[(open({path!r}, 'w'), 0)]",
        ],
    )
    def test_code_in_the_text_is_refused_and_not_run(self, code: str, tmp_path: Path) -> None:
        injected = code.format(path=str(tmp_path / "run"))
        for written in (
            text(normal=injected),
            text(concat=injected),
            injected,
            f"Genotype({injected})",
        ):
            refusal(written)
            (tmp_path / "genotype.txt").write_text(written)
            with pytest.raises(UserError):
                Genotype.load(tmp_path / "genotype.txt")
        assert [path.name for path in tmp_path.iterdir()] == ["genotype.txt"]

    @pytest.mark.parametrize(
        "bomb",
        [
            "[" * 90 + "]" * 90,
            "[" * 100_000,
            "(" * 5000 + ")" * 5000,
            "+".join(["1"] * 2500),
            "-" * 2000 + "1",
            "a" + ".b" * 2500,
            "a" + "[0]" * 2500,
            "9 ** 9 ** 9 ** 9",
            "'a' * 10 ** 12",
            "range(0, 10 ** 12)",
            f"range(0, 1{'0' * 30})",
            "range(0, 999)",
            "[0x" + "f" * 5000 + "]",
            "[('skip_connect', 0x" + "f" * 5000 + ")] * 8",
            "[" + "('skip_connect', 0), " * 7 + "('skip_connect', 0x" + "f" * 5000 + ")]",
            "[('" + "x" * 100_000 + "', 0)]",
        ],
    )
    def test_nesting_and_sizes_that_would_break_a_reader_are_refused(self, bomb: str) -> None:
        refusal(text(normal=bomb))
        refusal(text(concat=bomb))

    @given(st.text())
    def test_any_other_text_is_a_user_error(self, written: str) -> None:
        with pytest.raises(UserError):
            Genotype.parse(written)

    @settings(max_examples=150)
    @given(st.integers(0, len(DARTS_V2) - 1), st.characters())
    def test_altered_text_is_a_genotype_or_a_user_error(self, place: int, letter: str) -> None:
        with contextlib.suppress(UserError):
            DARTS_SPACE.check(Genotype.parse(DARTS_V2[:place] + letter + DARTS_V2[place + 1 :]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def altered_json(**changes: object) -> dict[str, object]:
    """As earlier versions wrote it, and as it stands in what is written now: the cells alone."""
    data = GENOTYPES["DARTS_V2"].to_json()["cells"]
    data["normal"] = {**data["normal"], **changes}
    return data


class TestJson:
    @pytest.mark.parametrize(
        "data",
        [
            None,
            3,
            "normal",
            [],
            {},
            {"normal": 3},
            {"normal": altered_json()["normal"]},
            {**altered_json(), "extra": altered_json()["normal"]},
            altered_json(inputs="2"),
            altered_json(inputs=True),
            altered_json(inputs=2.0),
            altered_json(inputs=3),
            altered_json(inputs=-1),
            altered_json(inputs=None),
            altered_json(concat=None),
            altered_json(concat=2),
            altered_json(concat="2345"),
            altered_json(concat=[2.0, 3.0]),
            altered_json(concat=[2, [3]]),
            altered_json(concat=[]),
            altered_json(nodes=None),
            altered_json(nodes=7),
            altered_json(nodes="abcd"),
            altered_json(nodes=[]),
            altered_json(nodes=[[]] * 5),
            altered_json(nodes=[None] * 4),
            altered_json(nodes=[["skip_connect", 0]] * 4),
            altered_json(nodes=[[["skip_connect"]]] * 4),
            altered_json(nodes=[[["skip_connect", "0"]]] * 4),
            altered_json(nodes=[[["skip_connect", False]]] * 4),
            altered_json(nodes=[[["skip_connect", None]]] * 4),
            altered_json(nodes=[[[["skip_connect"], 0]]] * 4),
            altered_json(nodes=[[{"operation": "skip_connect", "source": 0}]] * 4),
            altered_json(nodes=[[["warp", 0]]] * 4),
            altered_json(nodes=[[["skip_connect", 5]]] * 4),
            altered_json(nodes=[[["skip_connect", 10**5000]]] * 4),
        ],
    )
    def test_wrong_data_are_a_user_error(self, data: object) -> None:
        with pytest.raises(UserError):
            Genotype.from_json(data)

    @given(JSON)
    def test_any_other_data_are_a_user_error(self, data: object) -> None:
        with pytest.raises(UserError):
            Genotype.from_json(data)

    @given(JSON | st.just([[]] * 4))  # a cell may have no edge at all
    def test_any_nodes_are_a_user_error_or_a_genotype(self, nodes: object) -> None:
        try:
            genotype = Genotype.from_json(altered_json(nodes=nodes))
        except UserError:
            return
        assert Genotype.from_json(genotype.to_json()) == genotype


class TestFiles:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"{}",
            b'{"normal": ' * 50_000,
            b"[" * 100_000,
            b'{"normal": {"inputs": ' + b"1" * 5000 + b"}}",
            b"\xff\xfe",
            b"\x00\x01",
            b"hello",
            b"\x89PNG\r\n\x1a\n",
        ],
    )
    def test_a_file_that_holds_no_genotype_is_named(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "genotype.json"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"genotype\.json"):
            Genotype.load(path)

    def test_a_missing_file_or_an_unknown_name_lists_the_published_ones(
        self, tmp_path: Path
    ) -> None:
        for name in ("DARTS_V3", tmp_path / "none.json", tmp_path):
            with pytest.raises(UserError, match=r"ISTA_twostage.*DARTS_V2"):
                Genotype.load(name)

    def test_saving_where_it_cannot_be_is_a_user_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="missing"):
            GENOTYPES["DARTS_V2"].save(tmp_path / "missing" / "g.json")


class TestRandomGenotypes:
    def test_sizes_per_node_and_the_seed_are_obeyed(self) -> None:
        drawn = [
            Choices(DARTS_SPACE, (1, 2, 3, 5)).random(torch.Generator().manual_seed(seed))
            for seed in (3, 3, 4)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        for cell in (drawn[0]["normal"], drawn[0]["reduction"]):
            assert [len(edges) for edges in cell.nodes] == [1, 2, 3, 5]

    def test_every_set_of_places_is_equally_likely(self) -> None:
        space = DartsSpace(primitives=("skip_connect", "max_pool_3x3"), nodes=1, inputs=2)
        random_numbers = torch.Generator().manual_seed(0)
        counts: dict[tuple[object, ...], int] = {}
        for _ in range(600):
            places = Choices(space).random(random_numbers).places(space)["normal"]
            counts[places] = counts.get(places, 0) + 1
        assert len(counts) == 6  # of four places two
        expected = 100
        chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_squared < 20.5  # five degrees of freedom: exceeded once in a thousand


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(", ", ",\n\t"),
        lambda text: text.replace(", ", ",\u00a0"),
        lambda text: text.replace("(normal=", " (\n normal ="),
        lambda text: f"\ufeff\n {text} \r\n",
        lambda text: text.replace("'", "\u2019"),
        lambda text: text.replace("'", "\u201d"),
    ],
)
def test_texts_from_pages_and_word_processors_are_read(change, tmp_path):
    """Other blanks, line breaks and quotation marks mean nothing."""
    expected = GENOTYPES["DARTS_V2"]
    text = change(str(expected))
    assert Genotype.load(text) == expected
    (tmp_path / "found.txt").write_text(f"best = {text.strip()}", encoding="utf-8")
    assert Genotype.load(tmp_path / "found.txt") == expected


def test_cell_strings_may_have_blanks():
    assert Genotype.load(CELL.replace("+", " +\n")) == Genotype.load(CELL)
