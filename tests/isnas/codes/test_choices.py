"""Decisions, neighbours and grids of architectures, against enumeration of tiny spaces from the definitions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import comb, log2

import pytest
import torch
from scipy.stats import chisquare

from isnas import DARTS_SPACE, GENOTYPES, DartsSpace, Edge, Genotype, Space, UserError
from isnas.codes.choices import NONE, WIRINGS, Choices, Decision
from isnas.spaces.nasbench201 import NASBENCH201_SPACE, NASBench201Space, all_cells, to_string

TINY = DartsSpace(primitives=("a", "b"), nodes=2, inputs=1, kinds=("cell",))
TWO_KINDS = DartsSpace(primitives=("a", "b"), nodes=1, inputs=2, kinds=("one", "two"))
EDGES = NASBench201Space(("a", "b"), nodes=2, output=(2,))

SMALL: dict[str, Callable[[], Choices]] = {
    "one place": lambda: Choices(TINY, 1),
    "as many places as the node's number": lambda: Choices(TINY, (1, 2)),
    "all places of a node": lambda: Choices(TINY, (2, 3)),
    "two kinds": lambda: Choices(TWO_KINDS),
    "one per edge": lambda: Choices(EDGES),
}
ALL_SPACES = {
    **SMALL,
    "DARTS": lambda: Choices(DARTS_SPACE),
    "NAS-Bench-201": lambda: Choices(NASBENCH201_SPACE),
}

Node = frozenset[Edge]
Written = tuple[Node, ...]
"""An architecture as the edges of each node of each kind of cell."""


def written(genotype: Genotype) -> Written:
    return tuple(frozenset(edges) for _, cell in genotype.cells for edges in cell.nodes)


def every_node(choices: Choices, node: int) -> list[Node]:
    """Return all that a node can have: of all sets of edges those that the space allows."""
    space = choices.space
    edges = [
        Edge(name, source) for source in range(space.inputs + node) for name in space.primitives
    ]
    sets = [
        frozenset(kept)
        for size in range(len(edges) + 1)
        for kept in itertools.combinations(edges, size)
    ]
    if space.choices[0].groups is not None:
        return [kept for kept in sets if len({edge.source for edge in kept}) == len(kept)]
    return [kept for kept in sets if len(kept) == choices.s[node]]


def everything(choices: Choices) -> set[Written]:
    nodes = [every_node(choices, node) for node in range(choices.space.nodes)]
    return set(itertools.product(*nodes * len(choices.space.kinds)))


def fits(observed: Iterable[Written], expected: dict[Written, Fraction], draws: int) -> bool:
    """Return whether draws come from a distribution, by a chi-square test that errs once in a thousand."""
    counts = Counter(observed)
    if set(counts) - set(expected):
        return False
    keys = list(expected)
    if len(keys) == 1:
        return True
    wanted = [float(expected[key] * draws) for key in keys]
    return bool(chisquare([counts[key] for key in keys], wanted).pvalue > 1e-3)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestDecisions:
    def test_of_the_space_of_darts(self) -> None:
        choices = Choices(DARTS_SPACE)
        assert len(choices.decisions) == 2 * 4 * 2 * 2
        assert choices.decisions[:4] == (
            Decision("normal", 0, "source", 2, 0),
            Decision("normal", 0, "operation", 7, 0),
        ) * 2  # fmt: skip
        assert choices.decisions[-2] == Decision("reduction", 3, "source", 5, 7)

    def test_of_nasbench201(self) -> None:
        decisions = Choices(NASBENCH201_SPACE).decisions
        assert [d.node for d in decisions] == [0, 1, 1, 2, 2, 2]
        assert {d[2:4] for d in decisions} == {("operation", 5)}

    @pytest.mark.parametrize("name", SMALL)
    def test_sequences_lead_to_every_architecture_equally_often(self, name: str) -> None:
        choices = SMALL[name]()
        found = Counter(written(choices.genotype(chosen)) for chosen in sequences(choices))
        assert set(found) == everything(choices)
        assert len(set(found.values())) == 1  # one for each order of the nodes' places

    @pytest.mark.parametrize("name", SMALL)
    def test_whatever_is_not_allowed_is_refused(self, name: str) -> None:
        choices = SMALL[name]()
        allowed = set(sequences(choices))
        every = set(itertools.product(*(range(d.options) for d in choices.decisions)))
        for chosen in sorted(every - allowed)[:200]:
            with pytest.raises(UserError, match="cannot be"):
                choices.genotype(chosen)
        some = next(iter(allowed))
        for wrong in (some[:-1], (*some, 0), ()):
            with pytest.raises(UserError, match="decisions"):
                choices.genotype(wrong)
        with pytest.raises(UserError, match="cannot be -1"):
            choices.genotype((-1, *some[1:]))

    def test_edges_stand_by_node_and_source(self) -> None:
        genotype = Choices(NASBENCH201_SPACE).genotype([1, 0, 2, 3, 0, 4])
        assert to_string(genotype) == (
            "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|"
        )

    @pytest.mark.parametrize("s", [0, -1, 15, (2, 2, 2), (2, 2, 2, 50), ()])
    def test_s_must_fit(self, s: int | tuple[int, ...]) -> None:
        with pytest.raises(UserError, match=r"\bs\b"):
            Choices(DARTS_SPACE, s)


class TestAll:
    @pytest.mark.parametrize("name", SMALL)
    def test_each_once(self, name: str) -> None:
        choices = SMALL[name]()
        found = [written(genotype) for genotype in choices.all()]
        assert len(found) == len(set(found)) == choices.size
        assert set(found) == everything(choices)

    def test_sizes_of_the_known_spaces(self) -> None:
        assert Choices(NASBENCH201_SPACE).size == 5**6
        assert Choices(DARTS_SPACE).size == (
            comb(14, 2) * comb(21, 2) * comb(28, 2) * comb(35, 2)
        ) ** 2  # fmt: skip

    def test_nasbench201(self) -> None:
        assert {to_string(genotype) for genotype in Choices(NASBENCH201_SPACE).all()} == set(
            all_cells()
        )

    def test_lazy(self) -> None:
        assert next(Choices(DARTS_SPACE, 7).all()).kinds == ("normal", "reduction")


class TestRandom:
    @pytest.mark.parametrize("name", SMALL)
    def test_uniform(self, name: str, random: torch.Generator) -> None:
        choices = SMALL[name]()
        every = everything(choices)
        draws = 30 * len(every)
        drawn = [written(choices.random(random)) for _ in range(draws)]
        assert fits(drawn, dict.fromkeys(every, Fraction(1, len(every))), draws)

    def test_edges_of_nasbench201_are_independent(self, random: torch.Generator) -> None:
        """Each pair of edges has each pair of operations equally often."""
        choices = Choices(NASBENCH201_SPACE)
        draws = [operations(choices.random(random)) for _ in range(1500)]
        for i, j in itertools.combinations(range(6), 2):
            counts = Counter((drawn[i], drawn[j]) for drawn in draws)
            assert len(counts) == 25
            assert chisquare(list(counts.values())).pvalue > 1e-4

    def test_follows_its_generator(self) -> None:
        for make in ALL_SPACES.values():
            one, other = (
                [make().random(torch.Generator().manual_seed(5)) for _ in range(3)]
                for _ in range(2)
            )
            assert one == other


class TestMutation:
    @pytest.mark.parametrize("name", SMALL)
    def test_is_what_its_definition_says(self, name: str, random: torch.Generator) -> None:
        """Some architectures have all their mutants, with their probabilities."""
        choices = SMALL[name]()
        architectures = list(choices.all())
        for genotype in architectures[:: max(1, len(architectures) // 4)]:
            expected = mutants(choices, written(genotype))
            if not expected:
                with pytest.raises(UserError, match="one architecture only"):
                    choices.mutate(genotype, random)
                continue
            assert written(genotype) not in expected
            assert set(expected) <= everything(choices)
            draws = 25 * len(expected)
            drawn = [written(choices.mutate(genotype, random)) for _ in range(draws)]
            assert fits(drawn, expected, draws)

    def test_places_are_drawn_before_what_they_get(self, random: torch.Generator) -> None:
        """Nodes 1 and 2 are as likely to change, though the one has one other state to read and the other two."""
        choices = Choices(Space(("a",), nodes=3, inputs=1, kinds=("cell",)), 1)
        genotype = choices.genotype([0] * 6)
        expected = mutants(choices, written(genotype))
        assert sorted(expected.values()) == [Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)]
        drawn = [written(choices.mutate(genotype, random)) for _ in range(500)]
        assert fits(drawn, expected, 500)

    @pytest.mark.parametrize("name", ALL_SPACES)
    def test_leads_everywhere(self, name: str, random: torch.Generator) -> None:
        """A walk of mutations changes one edge at a time and stays inside the space."""
        choices = ALL_SPACES[name]()
        if choices.size == 1:
            pytest.skip("nowhere to go")
        genotype = choices.random(random)
        for _ in range(30):
            before, genotype = written(genotype), choices.mutate(genotype, random)
            choices.space.check(genotype)
            changed = [
                (a - b, b - a) for a, b in zip(before, written(genotype), strict=True) if a != b
            ]
            assert len(changed) == 1
            assert all(len(edges) <= 1 for edges in changed[0])
            assert all(cell.concat == choices.space.concat for _, cell in genotype.cells)

    def test_nasbench201_changes_any_edge_to_any_other_operation(
        self, random: torch.Generator
    ) -> None:
        choices = Choices(NASBENCH201_SPACE)
        old = [0, 1, 2, 3, 4, 0]
        genotype = choices.genotype(old)
        counts: Counter[tuple[int, int]] = Counter()
        for _ in range(1200):
            new = operations(choices.mutate(genotype, random))
            ((edge, operation),) = [
                (i, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b
            ]
            counts[edge, operation] += 1
        # a node of three, an edge of its one, two or three, another operation of four
        edges = [1 / 3, *[1 / 6] * 2, *[1 / 9] * 3]
        assert len(counts) == 6 * 4
        observed = [counts[key] for key in sorted(counts)]
        expected = [1200 * edges[edge] / 4 for edge, _ in sorted(counts)]
        assert chisquare(observed, expected).pvalue > 1e-3

    def test_refuses_what_is_not_of_the_space(self, random: torch.Generator) -> None:
        with pytest.raises(UserError, match="expected 3"):
            Choices(DARTS_SPACE, 3).mutate(GENOTYPES["DARTS_V2"], random)
        with pytest.raises(UserError, match="cells"):
            Choices(EDGES).mutate(GENOTYPES["DARTS_V2"], random)
        twice = Choices(TINY, (2, 2)).genotype([0, 0, 0, 1, 0, 0, 1, 0])
        with pytest.raises(UserError, match="edge with two operations"):
            Choices(EDGES).mutate(twice, random)


class TestCrossover:
    @pytest.mark.parametrize("name", ["two kinds", "one per edge", "one place"])
    def test_each_node_from_either_parent(self, name: str, random: torch.Generator) -> None:
        choices = SMALL[name]()
        one, other = list(choices.all())[1], list(choices.all())[-1]
        expected: Counter[Written] = Counter()
        for nodes in itertools.product(*zip(written(one), written(other), strict=True)):
            expected[nodes] += 1
        draws = 200
        drawn = [written(choices.crossover(one, other, random)) for _ in range(draws)]
        weights = {key: Fraction(n, expected.total()) for key, n in expected.items()}
        assert len(weights) > 1
        assert fits(drawn, weights, draws)

    def test_of_itself(self, random: torch.Generator) -> None:
        choices = Choices(DARTS_SPACE)
        genotype = GENOTYPES["DARTS_V2"]
        child = choices.crossover(genotype, genotype, random)
        assert written(child) == written(genotype)

    def test_refuses_what_is_not_of_the_space(self, random: torch.Generator) -> None:
        choices = Choices(DARTS_SPACE, 1)
        with pytest.raises(UserError, match="expected 1"):
            choices.crossover(choices.random(random), GENOTYPES["DARTS_V2"], random)


class TestGrid:
    def test_of_the_space_of_darts(self) -> None:
        choices = Choices(DARTS_SPACE)
        assert choices.grid_size() == (7 * 7 * 2) ** 2
        names = DARTS_SPACE.primitives[2:5]
        grid = [written(genotype) for genotype in choices.grid(names)]
        assert len(set(grid)) == len(grid) == choices.grid_size(names) == (3 * 3 * 2) ** 2

    def test_its_points_are_as_described(self) -> None:
        names = ("skip_connect", "sep_conv_3x3")
        expected = []
        for wiring, first, second in itertools.product(WIRINGS, names, names):
            sources = [(0, 1) if wiring == "inputs" else (node + 1, node) for node in range(4)]
            expected.append(tuple(frozenset({Edge(first, i), Edge(second, j)}) for i, j in sources))
        found = [written(genotype) for genotype in Choices(DARTS_SPACE).grid(names)]
        assert found == [
            normal + reduction for normal, reduction in itertools.product(expected, expected)
        ]

    def test_of_edges(self) -> None:
        choices = Choices(NASBENCH201_SPACE)
        assert [to_string(genotype) for genotype in choices.grid()] == list(all_cells())
        some = [to_string(genotype) for genotype in choices.grid(["nor_conv_3x3", NONE])]
        assert len(some) == choices.grid_size(["nor_conv_3x3", NONE]) == 2**6
        assert some[0].count("nor_conv_3x3") == 6
        assert some[-1].count("none") == 6

    def test_nodes_of_different_numbers_of_places(self) -> None:
        choices = Choices(TINY, (1, 2))
        grid = [written(genotype) for genotype in choices.grid(wirings=["latest"])]
        assert len(grid) == 4
        assert grid[1] == (frozenset({Edge("a", 0)}), frozenset({Edge("a", 1), Edge("b", 0)}))

    @pytest.mark.parametrize("points", [1, 2, 3, 7, 18, 19, 200, 323, 324, 2000])
    def test_points_spread_evenly(self, points: int) -> None:
        """There is one in each of as many equal parts."""
        choices, names = Choices(DARTS_SPACE), DARTS_SPACE.primitives[:3]
        order = {written(genotype): i for i, genotype in enumerate(choices.grid(names))}
        found = [order[written(genotype)] for genotype in choices.grid(names, points=points)]
        n = min(points, 324)
        assert len(order) == 324
        assert len(found) == n
        assert all(
            i * 324 // n <= position < (i + 1) * 324 // n for i, position in enumerate(found)
        )
        assert n < 324 or found == list(range(324))

    @pytest.mark.parametrize("points", [7, 14, 49, 98])
    def test_points_vary_in_all_respects(self, points: int) -> None:
        """The same holds where the parts are as long as the grid of one cell, and end alike."""
        grid = list(Choices(DARTS_SPACE).grid(points=points))
        for kind in ("normal", "reduction"):
            assert len({genotype[kind] for genotype in grid}) > points / 2

    def test_of_astronomical_size_is_lazy(self) -> None:
        space = NASBench201Space(
            tuple("abcdefg"), nodes=8, inputs=2, kinds=("normal", "reduction"), output=()
        )
        choices = Choices(space)
        assert log2(choices.grid_size()) == pytest.approx(2 * 44 * 3)
        assert len({written(genotype) for genotype in choices.grid(points=5)}) == 5
        assert len(list(itertools.islice(choices.grid(), 3))) == 3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"primitives": ["conv"]}, "primitives"),
            ({"primitives": ["skip_connect", "skip_connect"]}, "primitives"),
            ({"primitives": [NONE]}, "primitives"),
            ({"wirings": ["all"]}, "wirings"),
            ({"points": 0}, "points"),
        ],
    )
    def test_refuses_nonsense(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Choices(DARTS_SPACE).grid(**arguments)

    def test_needs_a_state_for_each_place(self) -> None:
        with pytest.raises(UserError, match="node 0 has 2 places and 1 states"):
            Choices(TINY, (2, 2)).grid()


def sequences(choices: Choices) -> list[tuple[int, ...]]:
    """Return all sequences of allowed options."""
    found: list[tuple[int, ...]] = [()]
    for _ in choices.decisions:
        found = [
            (*chosen, option)
            for chosen in found
            for option, allowed in enumerate(choices.allowed(chosen))
            if allowed
        ]
    return found


def operations(genotype: Genotype) -> list[int]:
    """Return the operation of each edge of a NAS-Bench-201 cell, 0 for none."""
    names = (NONE, *NASBENCH201_SPACE.primitives)
    words = to_string(genotype).replace("+", "").split("|")
    return [names.index(word.split("~")[0]) for word in words if word]


def mutants(choices: Choices, nodes: Written) -> dict[Written, Fraction]:
    """Return the probability of each mutant, from the definition; empty when there is none."""
    space = choices.space
    names = space.primitives
    of_node = [node for _ in space.kinds for node in range(space.nodes)]
    grouped = space.choices[0].groups is not None
    ways: dict[str, list[list[Written]]] = {"operation": [], "source": []}

    def replaced(i: int, node: Node) -> Written:
        return (*nodes[:i], node, *nodes[i + 1 :])

    def add(what: str, i: int, others: Sequence[Node]) -> None:
        if others:
            ways[what].append([replaced(i, other) for other in others])

    for i, node in enumerate(nodes):
        sources = range(space.inputs + of_node[i])
        if grouped:
            for source in sources:
                rest = frozenset(edge for edge in node if edge.source != source)
                variants = [rest, *(rest | {Edge(name, source)} for name in names)]
                add("operation", i, [other for other in variants if other != node])
            continue
        for edge in node:
            rest = node - {edge}
            by_name = [rest | {Edge(name, edge.source)} for name in names]
            by_source = [rest | {Edge(edge.operation, source)} for source in sources]
            for what, variants in (("operation", by_name), ("source", by_source)):
                # a place that is there already would leave one place fewer
                add(what, i, [v for v in variants if v != node and len(v) == len(node)])
    possible = [ways[what] for what in ways if ways[what]]
    found: dict[Written, Fraction] = {}
    for way in possible:
        # with groups a node is drawn first, then one of its edges
        changed = [next(i for i, n in enumerate(others[0]) if n != nodes[i]) for others in way]
        for i, others in zip(changed, way, strict=True):
            share = len(way) if not grouped else len(set(changed)) * changed.count(i)
            for other in others:
                chance = Fraction(1, len(possible) * share * len(others))
                found[other] = found.get(other, Fraction(0)) + chance
    return found
