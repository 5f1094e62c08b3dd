"""Searches that ask for architectures: budgets, what they ask for, whether they climb; their options."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from making import IMAGES

from isnas import DARTS_SPACE, DartsSpace, Dataset, Genotype, Space, UserError
from isnas.codes.choices import Choices
from isnas.runtime.options import option_fields
from isnas.runtime.randomness import generator
from isnas.searches.black_box import (
    BlackBoxOptions,
    BlackBoxSearch,
    EvolutionOptions,
    GenerationalOptions,
    GridOptions,
    OutOfBudget,
    Proposer,
    ReinforceOptions,
    ageing_evolution,
    best_of,
    generational_evolution,
    grid_search,
    random_search,
    reinforce,
)
from isnas.searches.registry import create_search, search_options
from isnas.spaces.nasbench201 import NASBENCH201_SPACE, to_string

SEARCHES: dict[str, tuple[Callable[..., Proposer], type[BlackBoxOptions]]] = {
    "random search": (random_search, BlackBoxOptions),
    "grid search": (grid_search, GridOptions),
    "ageing evolution": (ageing_evolution, EvolutionOptions),
    "generational evolution": (generational_evolution, GenerationalOptions),
    "reinforce": (reinforce, ReinforceOptions),
}
SMALL = {
    "ageing evolution": {"population": 3},
    "generational evolution": {"population": 3, "parents": 2, "children": 2},
    "reinforce": {"policy_batch": 3, "hidden": 4},
}
MANY = 10**6
"""More architectures than any budget here."""
SPACES = {"sources": dataclasses.replace(DARTS_SPACE, nodes=2), "edges": NASBENCH201_SPACE}
WANTED = ("sep_conv_3x3", "nor_conv_3x3")


class Oracle:
    """Tells a signal, keeps what was asked for, and ends after so many."""

    def __init__(self, signal: Callable[[Genotype], float], budget: int | None = None) -> None:
        self.signal = signal
        self.budget = budget
        self.asked: list[Genotype] = []
        self.signals: list[float] = []

    def __call__(self, genotype: Genotype) -> float:
        if len(self.asked) == self.budget:
            raise OutOfBudget
        self.asked.append(genotype)
        self.signals.append(self.signal(genotype))
        return self.signals[-1]


def ask(
    search: Callable[..., Proposer],
    oracle: Callable[[Genotype], float],
    choices: Choices,
    random: torch.Generator,
    options: BlackBoxOptions,
) -> Genotype:
    return best_of(search(choices, random, options), oracle)


def convolutions(genotype: Genotype) -> float:
    """Return a signal that each 3x3 convolution raises: one optimum in NAS-Bench-201, and every step to it pays."""
    cells = [edge for _, cell in genotype.cells for edges in cell.nodes for edge in edges]
    return 10.0 + 15.0 * sum(edge.operation in WANTED for edge in cells)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edges_of(genotype: Genotype) -> list[frozenset[Any]]:
    return [frozenset(edges) for _, cell in genotype.cells for edges in cell.nodes]


def distance(one: Genotype, other: Genotype) -> int:
    """Return how many nodes differ."""
    return sum(a != b for a, b in zip(edges_of(one), edges_of(other), strict=True))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SEARCHES)
class TestAll:
    def test_asks_within_the_space_until_the_budget_ends(self, name: str, space: str) -> None:
        search, options = SEARCHES[name]
        choices = Choices(SPACES[space])
        oracle = Oracle(convolutions, budget=14)
        found = ask(search, oracle, choices, seeded(0), options(architectures=MANY))
        assert len(oracle.asked) == 14
        for genotype in oracle.asked:
            choices.space.check(genotype)
        # the best, of ties the first
        assert found == oracle.asked[oracle.signals.index(max(oracle.signals))]

    def test_number_of_architectures(self, name: str, space: str) -> None:
        search, options = SEARCHES[name]
        oracle = Oracle(convolutions)
        chosen = options(architectures=7, **SMALL.get(name, {}))
        ask(search, oracle, Choices(SPACES[space]), seeded(0), chosen)
        assert len(oracle.asked) == 7

    def test_same_seed_same_result(self, name: str, space: str) -> None:
        search, options = SEARCHES[name]
        choices = Choices(SPACES[space])
        runs = []
        for seed in (1, 1, 2):
            oracle = Oracle(convolutions, budget=14)
            ask(search, oracle, choices, seeded(seed), options(architectures=MANY))
            runs.append(oracle.asked)
        assert runs[0] == runs[1]
        assert (runs[0] == runs[2]) == (name == "grid search")

    def test_nothing_asked_is_an_error(self, name: str, space: str) -> None:
        search, options = SEARCHES[name]
        with pytest.raises(UserError, match="before the first architecture"):
            oracle = Oracle(convolutions, budget=0)
            ask(search, oracle, Choices(SPACES[space]), seeded(0), options())

    @pytest.mark.parametrize("signal", [math.nan, math.inf, -math.inf])
    def test_a_signal_must_be_a_number(self, name: str, space: str, signal: float) -> None:
        search, options = SEARCHES[name]
        with pytest.raises(UserError, match="no finite number"):
            oracle = Oracle(lambda genotype: signal)
            ask(search, oracle, Choices(SPACES[space]), seeded(0), options())

    def test_other_errors_come_through(self, name: str, space: str) -> None:
        def fail(genotype: Genotype) -> float:
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            search, options = SEARCHES[name]
            ask(search, fail, Choices(SPACES[space]), seeded(0), options())


class TestClimbing:
    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("ageing evolution", {}),
            ("generational evolution", {}),
            ("generational evolution", {"removal": "oldest"}),
            ("reinforce", {"policy": "softmax", "policy_learning_rate": 0.1}),
        ],
    )
    def test_comes_to_an_optimum_that_chance_misses(
        self, name: str, changes: dict[str, Any]
    ) -> None:
        """The one optimum of 15,625, which 400 random architectures have with a chance of 3 per cent."""
        search, options = SEARCHES[name]
        choices = Choices(NASBENCH201_SPACE)
        oracle = Oracle(convolutions, budget=400)
        found = ask(search, oracle, choices, seeded(0), options(architectures=MANY, **changes))
        assert to_string(found).count("nor_conv_3x3") == 6
        oracle = Oracle(convolutions, budget=400)
        many = BlackBoxOptions(architectures=MANY)
        by_chance = ask(random_search, oracle, choices, seeded(0), many)
        assert to_string(by_chance).count("nor_conv_3x3") < 6

    @pytest.mark.parametrize(
        ("space", "s"),
        [
            (
                DartsSpace(("skip_connect", "sep_conv_3x3", "max_pool_3x3"), nodes=2, inputs=1),
                1,
            ),
            (dataclasses.replace(NASBENCH201_SPACE, nodes=2, output=(2,)), 1),
        ],
        ids=["sources", "edges"],
    )
    def test_controller_learns_to_ask_for_better_ones(self, space: Space, s: int) -> None:
        choices = Choices(space, s)
        by_chance = statistics.mean(map(convolutions, choices.all()))
        oracle = Oracle(convolutions, budget=80)
        options = ReinforceOptions(architectures=MANY, policy_learning_rate=0.02)
        ask(reinforce, oracle, choices, seeded(0), options)
        assert statistics.mean(oracle.signals[-30:]) > by_chance + 15

    def test_evolution_climbs_in_the_space_of_darts(self) -> None:
        choices = Choices(DARTS_SPACE)
        means = []
        for name in ("random search", "ageing evolution", "generational evolution"):
            search, options = SEARCHES[name]
            oracle = Oracle(convolutions, budget=120)
            ask(search, oracle, choices, seeded(0), options(architectures=MANY))
            means.append(statistics.mean(oracle.signals[-40:]))
        assert min(means[1:]) > means[0] + 30


class TestAgeingEvolution:
    def test_mutates_the_best_of_the_living(self) -> None:
        """With so large a sample that it holds all of them, but for a chance of 1e-12."""
        choices, population = Choices(NASBENCH201_SPACE), 4
        oracle = Oracle(convolutions)
        options = EvolutionOptions(population=population, sample=120, architectures=60)
        ask(ageing_evolution, oracle, choices, seeded(0), options)
        for i in range(population, 60):
            living = range(i - population, i)
            best = max(oracle.signals[j] for j in living)
            parents = [oracle.asked[j] for j in living if oracle.signals[j] == best]
            assert any(distance(oracle.asked[i], parent) == 1 for parent in parents)

    def test_the_oldest_dies_even_if_it_is_the_best(self) -> None:
        """Signals fall, so the best is the oldest: it has one child and dies. If the worst died, it would live on."""
        falling = itertools.count(0, -1)
        oracle = Oracle(lambda genotype: float(next(falling)))
        options = EvolutionOptions(population=3, sample=100, architectures=30)
        found = ask(ageing_evolution, oracle, Choices(DARTS_SPACE), seeded(0), options)
        assert found == oracle.asked[0]
        for i in range(3, 30):
            assert distance(oracle.asked[i], oracle.asked[i - 3]) == 1
        for i in range(12, 30):
            assert distance(oracle.asked[i], oracle.asked[0]) > 1

    def test_a_sample_of_one_ignores_signals(self) -> None:
        choices = Choices(NASBENCH201_SPACE)
        options = EvolutionOptions(population=5, sample=1, architectures=40)
        runs = [
            Oracle(signal) for signal in (convolutions, lambda genotype: -convolutions(genotype))
        ]
        for oracle in runs:
            ask(ageing_evolution, oracle, choices, seeded(0), options)
        assert runs[0].asked == runs[1].asked


class TestGenerationalEvolution:
    def run(self, **changes: Any) -> Oracle:
        oracle = Oracle(convolutions)
        options = GenerationalOptions(
            **{"population": 4, "parents": 2, "children": 3, "architectures": 22, **changes}
        )
        ask(generational_evolution, oracle, Choices(NASBENCH201_SPACE), seeded(0), options)
        assert len(oracle.asked) == 4 + 6 * 3
        return oracle

    @staticmethod
    def living(oracle: Oracle, removal: str) -> list[list[int]]:
        """Return who is alive before each generation, by the definition."""
        alive = list(range(4))
        found = [alive]
        for generation in range(6):
            alive = [*alive, *range(4 + 3 * generation, 7 + 3 * generation)]
            order = sorted(alive, key=lambda i: (oracle.signals[i], i) if removal == "worst" else i)
            alive = sorted(order[3:])
            found.append(alive)
        return found

    @pytest.mark.parametrize("removal", ["worst", "oldest"])
    @pytest.mark.parametrize("crossover", [0.0, 1.0])
    def test_children_are_of_the_best(self, removal: str, crossover: float) -> None:
        """By mutation of one parent, or by crossover of both alone."""
        oracle = self.run(removal=removal, crossover=crossover, mutation=0.0)
        for generation, alive in enumerate(self.living(oracle, removal)[:-1]):
            ranked = sorted(alive, key=lambda i: (-oracle.signals[i], i))
            one, other = (oracle.asked[i] for i in ranked[:2])
            for child in oracle.asked[4 + 3 * generation : 7 + 3 * generation]:
                if crossover:
                    assert all(
                        edges in pair
                        for edges, pair in zip(
                            edges_of(child),
                            zip(edges_of(one), edges_of(other), strict=True),
                            strict=True,
                        )
                    )
                else:
                    assert 1 in (distance(child, one), distance(child, other))

    def test_crossover_can_be_followed_by_mutation(self) -> None:
        """Then a child can be one mutation away from all that its parents can mix."""
        plain = self.run(crossover=1.0, mutation=0.0)
        mutated = self.run(crossover=1.0, mutation=1.0)
        assert plain.asked[:4] == mutated.asked[:4]
        born = set(itertools.chain(*map(edges_of, mutated.asked[:4])))
        assert set(itertools.chain(*map(edges_of, plain.asked))) <= born
        assert not set(itertools.chain(*map(edges_of, mutated.asked))) <= born


class TestGridSearch:
    def test_asks_for_the_grid_in_order(self) -> None:
        choices = Choices(DARTS_SPACE)
        options = GridOptions(
            architectures=MANY, primitives=("skip_connect", "sep_conv_3x3"), wirings=("latest",)
        )
        oracle = Oracle(convolutions)
        found = ask(grid_search, oracle, choices, seeded(0), options)
        assert oracle.asked == list(choices.grid(options.primitives, options.wirings))
        assert convolutions(found) == 10 + 15 * 16

    def test_points(self) -> None:
        choices = Choices(NASBENCH201_SPACE)
        oracle = Oracle(convolutions)
        ask(grid_search, oracle, choices, seeded(0), GridOptions(architectures=11))
        assert oracle.asked == list(choices.grid(points=11))

    def test_unknown_primitives_are_named(self) -> None:
        with pytest.raises(UserError, match="primitives"):
            options = GridOptions(primitives=("conv",))
            ask(grid_search, Oracle(convolutions), Choices(DARTS_SPACE), seeded(0), options)


class TestReinforce:
    @pytest.mark.parametrize(("preset", "rate"), [("paper", 0.5), ("nats-bench", 0.01)])
    def test_is_that_of_nasbench201(self, preset: str, rate: float) -> None:
        """Written out: independent softmaxes, Adam on the reward above the average of all so far."""
        logits = torch.zeros(6, 5, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=rate)
        above, below, random, asked = 0.0, 0.0, seeded(4), []
        choices = Choices(NASBENCH201_SPACE)
        for _ in range(40):
            log = logits.log_softmax(1)
            drawn = [torch.multinomial(row.detach().exp(), 1, generator=random) for row in log]
            chosen = torch.cat(drawn)
            asked.append(choices.genotype(chosen.tolist()))
            reward = convolutions(asked[-1])
            above, below = 0.9 * above + 0.1 * reward, 0.9 * below + 0.1
            optimizer.zero_grad()
            (-log.gather(1, chosen[:, None]).sum() * (reward - above / below)).backward()
            optimizer.step()
        oracle = Oracle(convolutions, budget=40)
        options = search_options("reinforce", NASBENCH201_SPACE, preset, architectures=MANY)
        ask(reinforce, oracle, choices, seeded(4), options.method)
        assert oracle.asked == asked

    def test_a_corrected_baseline_must_move(self) -> None:
        with pytest.raises(UserError, match="baseline_decay must be below 1"):
            ReinforceOptions(baseline_start="corrected", baseline_decay=1.0)

    def test_reward_power(self) -> None:
        """Odd powers keep the order; without learning they change nothing."""
        runs = []
        for power in (1, 3):
            oracle = Oracle(convolutions, budget=30)
            options = ReinforceOptions(
                architectures=MANY, hidden=4, policy_learning_rate=0.0, reward_power=power
            )
            ask(reinforce, oracle, Choices(NASBENCH201_SPACE), seeded(0), options)
            runs.append(oracle.asked)
        assert runs[0] == runs[1]


BAD: dict[str, list[object]] = {
    "architectures": [0, 1.5, True, "7"],
    "s": [0, (1, 0), (), 1.5],
    "primitives": ["skip_connect", (1,), None],
    "wirings": [(), ("all",), "inputs", None],
    "population": [0, 1.5, None],
    "sample": [0, None],
    "parents": [1, 11, None],
    "children": [0],
    "crossover": [-0.1, 1.1, math.nan, "half", None],
    "mutation": [-0.1, 1.1, math.nan],
    "removal": ["best", None],
    "policy": ["gru", None],
    "policy_learning_rate": [-1, math.nan, math.inf, True],
    "policy_batch": [0, 1.0],
    "reward_power": [0, 0.5],
    "entropy_weight": [-1, math.inf],
    "baseline_decay": [-0.1, 1.1],
    "baseline_start": ["last"],
    "hidden": [0],
    "temperature": [0, -1, math.nan, None],
    "tanh_constant": [0, -1],
    "op_tanh_reduce": [0],
}
ALL_OPTIONS = [options for _, options in SEARCHES.values()]


class TestOptions:
    @pytest.mark.parametrize("options", ALL_OPTIONS)
    def test_describe_themselves(self, options: type[BlackBoxOptions]) -> None:
        described = {field.name: field for field in option_fields(options)}
        assert set(described) == {field.name for field in dataclasses.fields(options)} <= set(BAD)
        for name, field in described.items():
            assert field.help.endswith("."), name
            assert field.default == getattr(options(), name)

    @pytest.mark.parametrize(
        ("options", "name", "value"),
        [
            (options, field.name, value)
            for options in ALL_OPTIONS
            for field in dataclasses.fields(options)
            for value in BAD[field.name]
        ],
    )
    def test_a_bad_value_is_named(
        self, options: type[BlackBoxOptions], name: str, value: object
    ) -> None:
        with pytest.raises(UserError, match=rf"\b{name}\b"):
            options(**{name: value})

    def test_published_constants(self) -> None:
        paper = search_options("evolution", DARTS_SPACE, "paper", architectures=7).method
        assert (paper.population, paper.sample, paper.architectures) == (100, 25, 7)
        paper = search_options("reinforce", DARTS_SPACE, "paper").method
        assert paper.policy_learning_rate == 6e-4


class TestAsASearch:
    """Children are trained and judged; the search goes on exactly where it stopped."""

    OPTIONS: ClassVar = {
        "channels": 2, "cells": 1, "batch_size": 8, "epochs": 2, "architectures": 4, "seed": 1,
    }  # fmt: skip

    def search(self, data: Dataset, method: str = "evolution", **changes: Any) -> BlackBoxSearch:
        values = {**self.OPTIONS, **changes}
        return create_search(method, NASBENCH201_SPACE, data, **values)

    def test_asks_for_what_the_proposer_asks_for_with_these_signals(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Any
    ) -> None:
        stage = self.search(toy_data(), population=2, sample=2)
        ends = drive(stage, recorder)
        assert len(ends) == len(stage.asked) == 4
        random = generator(1, "search", "ageing_evolution")
        options = EvolutionOptions(architectures=4, population=2, sample=2)
        signals = dict(stage.asked)
        oracle = Oracle(signals.__getitem__)
        found = ask(ageing_evolution, oracle, stage.choices, random, options)
        assert oracle.asked == [genotype for genotype, _ in stage.asked]
        assert found == stage.genotype()
        assert ends[-1]["genotype"] == str(found)

    def test_a_child_is_judged_by_data_that_it_was_not_trained_on(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Any
    ) -> None:
        data = toy_data(n=32, classes=32)
        stage = self.search(data, "random", architectures=1)
        trained = {int(y) for batch in stage.batches(0, 0) for y in batch[1]}
        feed = IMAGES.scoring_feed(
            data, stage.options.optimizer, seed=1, device=torch.device("cpu"), whole=True
        )
        judged = {int(label) for _, y in feed.epoch(0) for label in y}
        assert len(trained) == len(judged) == 16 and not trained & judged

    @pytest.mark.parametrize("method", ["evolution", "reinforce", "grid"])
    @pytest.mark.parametrize("stop", [1, 5, 8, 13])
    def test_interrupted_and_gone_on_with_it_is_the_same(
        self, toy_data: Callable[..., Dataset], recorder: Any, method: str, stop: int
    ) -> None:
        def run(stage: BlackBoxSearch, steps: int | None = None) -> BlackBoxSearch:
            done = 0
            while stage.epoch < stage.epochs:
                for batch in stage.batches(stage.epoch, stage.step):
                    stage.train_step(batch)
                    stage.step, done = stage.step + 1, done + 1
                    if done == steps:
                        return stage
                stage.end_epoch(recorder)
                stage.epoch, stage.step = stage.epoch + 1, 0
            return stage

        whole = run(self.search(toy_data(), method))
        state = run(self.search(toy_data(), method), stop).state_dict()
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        other = self.search(toy_data(), method)
        other.load_state_dict(torch.load(file, weights_only=True))
        run(other)
        assert other.asked == whole.asked and other.genotype() == whole.genotype()

    def test_a_child_that_diverges_is_the_worst_and_the_search_goes_on(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Any
    ) -> None:
        stage = self.search(toy_data(), "random", learning_rate=1e30, clip=0.0)
        ends = drive(stage, recorder)
        assert [end["value"] for end in ends] == [0.0] * 4

    def test_score_is_that_of_a_child_and_disturbs_nothing(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Any
    ) -> None:
        stage = self.search(toy_data(), "random")
        drive(stage, recorder, 2)
        asked, value = stage.asked[0]
        child = stage.child
        assert stage.score(asked) == value
        assert stage.child is child
