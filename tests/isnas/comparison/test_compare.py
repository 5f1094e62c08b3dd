"""The comparison's referee by hand counts, its rows by independent calculations, its interruption, its mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from making import IMAGES
from PIL import Image
from scipy.stats import kendalltau
from torch import Tensor

import isnas
from isnas import DARTS_SPACE, GENOTYPES, METHODS
from isnas.comparison import compare as comparison
from isnas.comparison import judging
from isnas.comparison.compare import changes_of, compare, comparison_schema
from isnas.comparison.judging import CHILDREN, SAMPLED, Entry, sampled, search_options_of
from isnas.comparison.referee import Budget, EpochCost, Meter, Spent, epoch_cost
from isnas.comparison.rows import read_rows
from isnas.comparison.table import kendall
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.hand_made import HAND_MADE, HandMadeOptions, width_for
from isnas.runs.evaluation import presets_for
from isnas.runs.loop import drive
from isnas.runtime.errors import UserError
from isnas.runtime.options import BaseOptions, Composition
from isnas.runtime.randomness import generator
from isnas.searches.base import Search, Setting, SupernetSearch
from isnas.searches.black_box import RandomSearch
from isnas.searches.registry import Method, chosen
from isnas.spaces.genotype import Genotype
from isnas.tasks.images import Dataset, split_indices

CPU = torch.device("cpu")
N, TEST, BATCH = 64, 24, 8
"""Training and test images of the toy data, and images of a batch: halves of 4 batches."""


def toy() -> Dataset:
    """Return random images of four classes."""
    random = torch.Generator().manual_seed(0)

    def images(n: int) -> Tensor:
        return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=random)

    return Dataset(
        name="toy",
        train_images=images(N),
        train_labels=torch.arange(N) % 4,
        test_images=images(TEST),
        test_labels=torch.arange(TEST) % 4,
        classes=tuple("abcd"),
        mean=(0.5,),
        std=(0.3,),
    )


def loaded(patch: pytest.MonkeyPatch) -> Dataset:
    """Let all commands load the toy data now."""
    dataset = toy()
    judging._data.cache_clear()
    patch.setattr(type(IMAGES), "load", lambda *_, **__: dataset)
    return dataset


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """Return the data that all commands load now."""
    yield loaded(monkeypatch)
    judging._data.cache_clear()  # other tests load their own


class ToyOptions(BaseOptions):
    """No options."""


class Toy(SupernetSearch):
    """A search whose cost is known: a step trains on a batch of each half and looks at one; see `end_epoch`."""

    method_options = ToyOptions

    def genotype(self) -> Genotype:
        return GENOTYPES["DARTS_V2"]

    def look(self, images: int) -> None:
        with torch.no_grad():
            x = torch.zeros(images, 1, 8, 8)
            self.network(x, self.alone(self.genotype()))

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        train, (x, _) = batch
        self.look(len(x))
        return self.train_weights(train, self.alone(self.genotype()))

    def end_epoch(self, run: Any) -> dict[str, Any]:
        """Look at 6 images, and at 30 more at the end of the last epoch."""
        self.look(6)
        if self.epoch + 1 == self.epochs:
            self.look(30)
        return {}


class Broken(Toy):
    """A search that diverges."""

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        return {"train_loss": super().train_step(batch)["train_loss"] * float("nan")}


TOYS = {
    "toy-shared": Method(Toy),
    "toy-asking": Method(RandomSearch),
    "toy-broken": Method(Broken),
}

# by hand: 4 steps of 8 images trained on and 8 looked at, and 6 at the end; 30 at the very end
EPOCH, END = 4 * 8 * (1 + 1 / 3) + 6 / 3, 30 / 3
# a child: 2 epochs on one half, a test on the other
CHILD = 2 * 32 + 32 / 3


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in TOYS.items():
        monkeypatch.setitem(METHODS, name, method)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a comparison."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        loaded(patch)
        for name, method in TOYS.items():
            patch.setitem(METHODS, name, method)
        compare(out=out, options=options())
    return out


@pytest.fixture
def rows(finished: Path) -> list[dict[str, Any]]:
    """Return its rows."""
    return read_rows(finished)


def options(**changes: Any) -> Composition:
    return comparison_schema(DARTS_SPACE).compose(
        **{
            "methods": ("toy-shared", "toy-asking"),
            "seeds": 2,
            "budget": "200images",
            "channels": 2,
            "cells": 3,
            "batch_size": BATCH,
            "device": "cpu",
            "child_epochs": 2,
            "evaluation_epochs": 1,
            "sampled": 3,
            "hand_made": False,
            **changes,
        }
    )


def search_of(method: str, data: Dataset, seed: int = 0, epochs: int | None = None) -> Search:
    """Return a method's search as a trial makes it."""
    made = search_options_of(method, seed, Entry(DARTS_SPACE, options()), {}, epochs)
    return METHODS[method].create(Setting(DARTS_SPACE, IMAGES, data, CPU, made))


class TestReferee:
    def test_budgets(self) -> None:
        assert Budget.parse("20epochs") == Budget(20, "epochs")
        assert Budget.parse("1.5 seconds") == Budget(1.5, "seconds")
        assert Budget.parse("1image") == Budget(1, "images")
        for text in ("60000images", "1234567890images", "0.0000001epochs", "1.5seconds"):
            assert str(Budget.parse(text)) == text
        for text in ("20", "epochs", "-3epochs", "0epochs", "3 days", ""):
            with pytest.raises(UserError, match="budget must be an amount above 0 and a unit"):
                Budget.parse(text)

    def test_spent_in_all_units(self) -> None:
        """A forward pass is a third of forward and backward."""
        spent = Spent(100, 30, 2.5)
        assert spent.amount("images", 50) == pytest.approx(110)
        assert spent.amount("epochs", 50) == pytest.approx(2.2)
        assert spent.amount("seconds", 50) == 2.5
        assert spent.minus(Spent(1, 2, 0.5)) == Spent(99, 28, 2.0)

    def test_images_are_counted_by_definition(self) -> None:
        network = isnas.build_network(GENOTYPES["DARTS_V2"], channels=2, cells=3, in_channels=1)
        x = torch.zeros(5, 1, 8, 8)
        meter = Meter(CPU)
        network(x)
        with meter.counting():
            network(x).sum().backward()
            with torch.no_grad():
                network(x[:3])
            count_multiply_adds(network, (8, 8))  # no images
            torch.nn.Conv2d(1, 2, 3)(x)  # no network
            other = threading.Thread(target=network, args=(x,))  # another trial
            other.start()
            other.join()
        network(x)
        assert meter.spent()[:2] == (5, 3)
        with meter.counting(), pytest.raises(RuntimeError, match="cannot count"):
            network(x=x)

    def test_cost_of_an_epoch(self, data: Dataset, toys: None) -> None:
        """A few steps and the ends of two epochs tell what any number of them costs."""
        cost = epoch_cost(search_of("toy-shared", data), "images", N, CPU)
        assert (cost.epoch, cost.end) == (pytest.approx(EPOCH), pytest.approx(END))
        per_epoch = epoch_cost(search_of("toy-shared", data), "epochs", N, CPU)
        assert per_epoch.epoch == pytest.approx(EPOCH / N)

    def test_epochs_nearest_to_a_budget(self) -> None:
        cost = EpochCost(epoch=3.0, end=2.0)
        budgets = (1, 6, 6.6, 11, 32)
        assert [cost.epochs(Budget(b, "epochs")) for b in budgets] == [1, 1, 2, 3, 10]
        assert cost.epochs(Budget(1, "epochs"), least=3) == 3


class TestRows:
    def test_what_was_spent(self, rows: list[dict[str, Any]]) -> None:
        shared = next(row for row in rows if row["method"] == "toy-shared")
        # (200 - 10) / 44.67 = 4.25
        assert shared["schedule"] == 4
        assert shared["trained"] == 4 * 32
        assert shared["evaluated"] == 4 * (32 + 6) + 30
        assert shared["passes"] == pytest.approx(4 * EPOCH + END)
        assert shared["epochs"] == pytest.approx((4 * EPOCH + END) / N)
        asking = next(row for row in rows if row["method"] == "toy-asking")
        assert asking["schedule"] == 2  # three would cost 224
        assert asking["passes"] == pytest.approx(2 * CHILD)
        assert all(row["seconds"] > 0 for row in (shared, asking))

    def test_trials_and_their_order(self, rows: list[dict[str, Any]]) -> None:
        """One seed of all methods after the other; what all need is spread between."""
        assert [(row["method"], row["seed"]) for row in rows] == [
            ("toy-shared", 0),
            ("toy-asking", 0),
            (CHILDREN, 0),
            (SAMPLED, 0),
            (SAMPLED, 1),
            ("toy-shared", 1),
            ("toy-asking", 1),
            (CHILDREN, 1),
            (SAMPLED, 2),
        ]

    def test_judged_as_evaluate_does(
        self, rows: list[dict[str, Any]], data: Dataset, tmp_path: Path
    ) -> None:
        recipe = {"channels": 2, "cells": 3, "epochs": 1, "device": "cpu", "threads": 1}
        rows = rows[1:4]  # one of each kind
        for row in rows:
            if row["method"] == CHILDREN:
                continue
            genotype = Genotype.parse(row["genotype"])
            run = tmp_path / f"{row['method']} {row['seed']}"
            results = isnas.evaluate(genotype, out=run, **recipe, seed=row["seed"]).results
            expected = results["evaluate"]
            for name in ("test_accuracy", "test_loss", "parameters", "multiply_adds"):
                assert row[name] == expected[name]
            assert row["skips"] == row["genotype"].count("skip_connect")
            if row["method"] == SAMPLED:
                assert genotype == sampled(row["seed"], DARTS_SPACE)

    def test_scores_are_the_methods_own(
        self, rows: list[dict[str, Any]], data: Dataset, toys: None
    ) -> None:
        shared = [row for row in rows if row["method"] == "toy-shared"][1]
        stage = search_of("toy-shared", data, 1, shared["schedule"])
        for _ in drive(stage):
            pass
        half = split_indices(N, 0.5, 1)[1]
        half = half[torch.randperm(len(half), generator=generator(1, "scoring images"))]
        x, y = (data.train_images[half] / 255 - 0.5) / 0.3, data.train_labels[half]
        batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        for i, score in enumerate(shared["scores"]):
            expected = IMAGES.shared_score(
                stage.network, stage.alone(sampled(i, DARTS_SPACE)), batches
            )
            assert score == pytest.approx(expected)
        children = next(row for row in rows if row["method"] == CHILDREN)
        child = search_of("random", data)
        assert children["scores"] == [child.score(sampled(i, DARTS_SPACE)) for i in range(3)]

    def test_tau_is_scipys(self, rows: list[dict[str, Any]]) -> None:
        truth = [row["test_accuracy"] for row in rows if row["method"] == SAMPLED]
        for row in rows:
            if not row["method"].startswith("toy"):
                continue
            scores = row["scores"]
            if row["method"] == "toy-asking":
                assert scores is None
                scores = next(
                    r["scores"] for r in rows if (r["method"], r["seed"]) == (CHILDREN, row["seed"])
                )
            expected = kendalltau(scores, truth).statistic
            found = kendall(row, rows, IMAGES.measure)
            assert found == pytest.approx(expected) if expected == expected else found is None

    def test_tau_of_known_rows(self) -> None:
        rows = [
            {"method": SAMPLED, "seed": i, "test_accuracy": accuracy}
            for i, accuracy in enumerate((0.1, 0.2, 0.3, 0.4))
        ]
        row = {"method": "enas", "seed": 0, "scores": [1.0, 3.0, 2.0, 4.0]}
        assert kendall(row, rows, IMAGES.measure) == pytest.approx((5 - 1) / 6)
        assert kendall({**row, "scores": [1.0] * 4}, rows, IMAGES.measure) is None
        assert kendall(row, rows[:2], IMAGES.measure) is None

    def test_table_says_all(self, finished: Path) -> None:
        text = (finished / "table.md").read_text()
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        assert len({line.count("|") for line in lines}) == 1
        for method in ("toy-shared", "toy-asking"):
            assert sum(line.startswith(f"| {method} | 2 |") for line in lines) == 1
        assert sum(line.startswith(f"| {SAMPLED} | 3 |") for line in lines) == 1
        for words in ("a third of those forwarded only", "Kendall's tau", "200 images"):
            assert words in text

    def test_a_search_sees_no_test_images(self, data: Dataset, toys: None) -> None:
        seen = IMAGES.without_test(data)
        assert len(seen.test_images) == len(seen.test_labels) == 0
        assert seen.train_images is data.train_images


def test_one_architecture_is_always_asked_for(data: Dataset, toys: None, tmp_path: Path) -> None:
    few = options(methods=("toy-asking",), seeds=1, budget="1images", sampled=0)
    (row,) = compare(out=tmp_path, options=few).rows
    assert row["schedule"] == 1 and row["passes"] == pytest.approx(CHILD)


def test_a_grid_is_spread_over_the_budget(data: Dataset, tmp_path: Path) -> None:
    few = options(methods=("grid",), seeds=1, budget="160images", sampled=0)
    (row,) = compare(out=tmp_path, options=few).rows
    assert row["schedule"] == 2


def test_seconds_end_a_search(data: Dataset, toys: None, tmp_path: Path) -> None:
    quick = options(methods=("toy-asking",), seeds=1, budget="0.001seconds", sampled=0)
    (row,) = compare(out=tmp_path, options=quick).rows
    assert row["schedule"] == 1 and row["seconds"] >= 0.001


def test_a_failed_search_is_a_row(data: Dataset, toys: None, tmp_path: Path) -> None:
    both = options(methods=("toy-broken", "toy-shared"), seeds=1, sampled=0)
    result = compare(out=tmp_path, options=both)
    errors = {row["method"]: row.get("error", "") for row in result.rows}
    assert errors["toy-shared"] == ""
    assert "train_loss is not a number in step 0 of epoch 0" in errors["toy-broken"]
    assert "| toy-broken | 1 (1 failed) |" in result.table
    assert "- toy-broken, seed 0: train_loss is not a number" in result.table


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "evaluation_seconds", "peak_memory")
    return [{name: v for name, v in row.items() if name not in times} for row in rows]


def test_interrupted_comparison_goes_on(
    rows: list[dict[str, Any]],
    data: Dataset,
    toys: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after three trials, it does the others only, and comes to the rows of a whole one."""
    real, called = comparison.run_trial, []

    def noting(method: str, seed: int, *rest: Any) -> dict[str, Any]:
        if len(called) == stop:
            raise KeyboardInterrupt
        called.append((method, seed))
        return real(method, seed, *rest)

    monkeypatch.setattr(comparison, "run_trial", noting)
    stop = 3
    with pytest.raises(KeyboardInterrupt):
        compare(out=tmp_path, options=options())
    assert read_rows(tmp_path)[2]["method"] == CHILDREN
    assert "| toy-shared | 1 |" in (tmp_path / "table.md").read_text()
    stop = None
    gone_on = compare(out=tmp_path, options=options()).rows
    assert without_times(gone_on) == without_times(rows)
    assert called == [(row["method"], row["seed"]) for row in rows]
    # fewer seeds and methods are there already
    compare(out=tmp_path, options=options(methods=("toy-shared",), seeds=1))
    assert len(called) == len(rows)
    launches = json.loads((tmp_path / "about.json").read_text())["launches"]
    assert len(launches) == 3


class TestMistakes:
    def test_names(self) -> None:
        assert chosen(["darts"], DARTS_SPACE) == ("darts-1", "darts-2")
        assert chosen(["random"], DARTS_SPACE) == ("random",)
        assert chosen(["reinforce", "ista"], DARTS_SPACE) == (
            "ista-two-stage",
            "ista-finalists",
            "ista-one-stage",
            "reinforce",
        )
        assert chosen(["all"], DARTS_SPACE) == tuple(METHODS)
        with pytest.raises(
            UserError, match=r"no method is called 'nas'.*; there are ista-two-stage,"
        ):
            chosen(["nas"], DARTS_SPACE)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("evolution", "must be METHOD.OPTION=VALUE"),
            ("evolution.population", "must be METHOD.OPTION=VALUE"),
            ("nas.population=3", "no method is called 'nas'"),
            (
                "evolution.people=3",
                "evolution has no option 'people'; it has .*, population, sample",
            ),
            ("evolution.population=many", "'many' is not of the type int"),
            ("ista-two-stage.reencode=1", "'1' is not of the type true or false"),
            ("darts-1.order=2", "the comparison decides on order of darts-1"),
            ("enas.channels=4", "the comparison decides on channels of enas"),
        ],
    )
    def test_constants(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            changes_of((text,), DARTS_SPACE)

    def test_constants_are_checked_before_anything_runs(
        self, data: Dataset, tmp_path: Path
    ) -> None:
        wrong = options(methods=("evolution",), set=("evolution.population=0",))
        with pytest.raises(UserError, match="population must be at least 1, got 0"):
            compare(out=tmp_path / "new", options=wrong)
        assert not (tmp_path / "new").exists()

    def test_sizes_are_checked_before_anything_runs(self, data: Dataset, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="channels must be a multiple of partial, 4"):
            compare(out=tmp_path / "new", options=options(methods=("pc-darts",), channels=6))
        assert not (tmp_path / "new").exists()

    def test_values(self) -> None:
        texts = (
            "evolution.population=20",
            "ista-two-stage.reencode=true",
            "ista-two-stage.m=5,6,7,7",
            "grid.primitives=skip_connect,sep_conv_3x3",
            "reinforce.tanh_constant=none",
            "hm-nas.joint_share=0.5",
        )
        assert changes_of(texts, DARTS_SPACE) == {
            "evolution": {"population": 20},
            "ista-two-stage": {"reencode": True, "m": (5, 6, 7, 7)},
            "grid": {"primitives": ("skip_connect", "sep_conv_3x3")},
            "reinforce": {"tanh_constant": None},
            "hm-nas": {"joint_share": 0.5},
        }

    def test_others_settings_are_refused(self, data: Dataset, toys: None, tmp_path: Path) -> None:
        compare(out=tmp_path, options=options(methods=("toy-asking",), seeds=1, sampled=0))
        with pytest.raises(UserError, match="has rows with budget = '200images', not '2epochs'"):
            compare(
                out=tmp_path, options=options(methods=("toy-asking",), budget="2epochs", sampled=0)
            )

    def test_clusters(
        self, data: Dataset, toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UserError, match="choose backend dask or ray"):
            compare(out=tmp_path, options=options(), scheduler="tcp://nowhere:1")
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(UserError, match=r"pip install 'isnas\[ray\]'"):
            compare(out=tmp_path, options=options(), backend="ray")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", METHODS)
def test_options_of_all_methods(name: str, preset: str) -> None:
    """The settings that all trials have in common are the same in all, whatever their presets say."""
    given = comparison_schema(DARTS_SPACE).compose(preset, device="cpu", data="digits")
    made = search_options_of(name, 7, Entry(DARTS_SPACE, given), {})
    assert made.network.channels == given.network.channels
    assert made.network.cells == given.network.cells
    assert (made.data.data, made.runtime.seed, made.evaluation) == ("digits", 7, None)
    search = METHODS[name].search
    own = {**search.defaults, **presets_for(search.presets, DARTS_SPACE).get(preset, {})}
    assert made.optimizer.batch_size == own.get("batch_size", 64)


class TestWithoutTraining:
    def test_a_budget_asks_for_no_more_than_the_user(self) -> None:
        """A search without cost goes on as long as is wanted; one with a cost as far as the budget pays for it."""
        entry = Entry(DARTS_SPACE, options())
        free, naswot = (f"training-free-{name}" for name in ("parameters", "naswot"))
        assert EpochCost(0.0, 0.0).epochs(Budget(3, "epochs")) > 10**9
        for epochs, architectures in ((1, 10), (3, 30), (sys.maxsize, 100)):
            made = search_options_of(naswot, 0, entry, {}, epochs)
            assert made.method.architectures == architectures
        more = {"architectures": 1000}
        assert search_options_of(free, 0, entry, more, 10**9).method.architectures == 1000
        assert search_options_of("zero-cost-pt", 0, entry, {}, 1).method.proposals == 1

    def test_rows_of_a_search_and_of_hand_made_networks(
        self, data: Dataset, tmp_path: Path
    ) -> None:
        """Sizes are as near as widths allow; nothing of the budget is spent by a search that looks at sizes alone."""
        methods = ("training-free-parameters", "training-free-naswot")
        chosen = options(methods=methods, seeds=1, hand_made=True, learning_rate=0.1)
        made = compare(out=tmp_path, options=chosen)
        rows = {row["method"]: row for row in made.rows}
        assert rows[methods[0]]["passes"] == 0
        assert rows[methods[0]]["scores"] == [
            count_parameters(
                isnas.build_network(
                    sampled(i, DARTS_SPACE), channels=2, cells=3, classes=4, in_channels=1
                )
            )
            for i in range(3)
        ]
        assert 0 < rows[methods[1]]["evaluated"] <= 1.1 * 3 * 200
        usual = judging.usual_size(Entry(DARTS_SPACE, chosen), data)
        resnet = rows["ResNet-20"]
        shape = {"options": HandMadeOptions(4, 1), "side": 8}
        assert resnet["width"] == width_for("ResNet-20", usual, **shape)
        assert "hand-made networks" in made.table
        # another launch without them goes on in the same directory
        compare(out=tmp_path, options=options(methods=methods, seeds=1, learning_rate=0.1))


def test_schedules_follow_the_epochs() -> None:
    entry = Entry(DARTS_SPACE, comparison_schema(DARTS_SPACE).compose(device="cpu"))
    one = search_options_of("ista-one-stage", 0, entry, {}, 9)
    assert (one.method.search_epochs, one.optimizer.epochs) == (4, 5)
    pc = search_options_of("pc-darts", 0, entry, {}, 30)
    assert (pc.optimizer.epochs, pc.method.warm_up, pc.method.partial) == (30, 10, 4)
    assert search_options_of("darts-2", 0, entry, {}, 3).method.order == 2
    child = search_options_of("evolution", 0, entry, {}, 6)
    assert (child.optimizer.epochs, child.method.architectures) == (3, 6)


def test_a_method_that_is_not_compared_has_no_constants_to_set(
    data: Dataset, tmp_path: Path
) -> None:
    idle = options(methods=("random",), set=("enas.samples=2",))
    with pytest.raises(UserError, match="set: enas is not among the methods"):
        compare(out=tmp_path / "new", options=idle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tiny images: processes of their own can load these."""
    root = tmp_path_factory.mktemp("images")
    for split, n in (("train", 8), ("test", 4)):
        for k, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                picture = Image.new("RGB", (8, 8), (30 * i, 200 * k, 99))
                picture.save(root / split / name / f"{i}.png")
    return root


def run_command(data: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    # partial channels need a multiple of 4
    size = ["--channels", "4", "--cells", "3", "--batch-size", "4", "--device", "cpu"]
    short = ["--budget", "1epochs", "--child-epochs", "1", "--evaluation-epochs", "1"]
    few = ["--seeds", "1", "--sampled", "2", "--quiet"]
    command = [sys.executable, "-m", "isnas", "compare", "--data", data, *size, *short, *few]
    words = tuple(map(str, [*command, *words]))
    return subprocess.run(words, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_all_methods(folder: Path, tmp_path: Path) -> None:
    """Every one, in two processes, in its smallest size."""
    few = ["enas.final_samples=2", "random-sharing.candidates=2"]
    done = run_command(folder, "--set", *few, "--jobs", "2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {(row["method"], row["seed"]): row for row in read_rows(tmp_path)}
    others = {(CHILDREN, 0), (SAMPLED, 0), (SAMPLED, 1), ("ResNet-20", 0), ("MobileNetV2", 0)}
    assert set(rows) == {*((m, 0) for m in METHODS), *others}
    for (method, _), row in rows.items():
        assert "error" not in row
        if method == CHILDREN:
            continue
        assert 0 <= row["test_accuracy"] <= 1 and row["parameters"] > 0
        if method in HAND_MADE:
            assert row["width"] > 0
            continue
        Genotype.parse(row["genotype"])
        if method != SAMPLED:
            sizes = method in ("training-free-parameters", "training-free-multiply-adds")
            assert row["seconds"] > 0 and (row["passes"] == 0) == sizes
            own = method in ("ista-one-stage", "hm-nas")
            assert (row["own_value"] is not None) == own
            assert (row["scores"] is None) == METHODS[method].search.trains_children
    assert f"written to {tmp_path}" in done.stdout and "| hm-nas | 1 |" in done.stdout
    assert "hm-nas" in (tmp_path / "compare.svg").read_text()
    # neither where the images are nor anything else of the machine's folders
    assert str(folder.parent) not in (tmp_path / "about.json").read_text()


@pytest.mark.slow
def test_on_a_dask_cluster(folder: Path, tmp_path: Path) -> None:
    """A cluster of two processes on this machine comes to the rows of this process."""
    pytest.importorskip("distributed")
    for name, where in (("here", []), ("there", ["--backend", "dask", "--jobs", "2"])):
        methods = ["--methods", "random", "ista-two"]
        done = run_command(folder, *methods, *where, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr

    def ordered(name: str) -> list[dict[str, Any]]:
        rows = without_times(read_rows(tmp_path / name))
        return sorted(rows, key=lambda row: (row["method"], row["seed"]))

    assert ordered("there") == ordered("here")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_interrupted_command(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C is taken with one line, and what was done stays."""
    command = [sys.executable, "-m", "isnas", "compare", "--data", folder, "--channels", "4"]
    command += ["--cells", "3", "--device", "cpu", "--seeds", "1000", "--evaluation-epochs", "1"]
    command += ["--methods", "random", "--budget", "1images", "--child-epochs", "1"]
    started = subprocess.Popen(
        [*map(str, command), "--jobs", "2", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell lets what it runs in the background ignore Ctrl-C, also these tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with started:
        try:
            for line in started.stderr:
                if line.startswith("1/"):
                    break
            os.killpg(started.pid, signal.SIGINT)  # as a terminal does
            # a guard: a second where nothing else runs
            _, errors = started.communicate(timeout=300)
        finally:
            started.kill()
    assert started.returncode == 130
    last = "interrupted; the same command goes on with --out"
    assert errors.splitlines()[-1].startswith(last), errors
    assert "Traceback" not in errors
    assert read_rows(tmp_path)
