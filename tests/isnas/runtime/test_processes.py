"""Several processes do together what one does alone: steps, batches, whole runs, interrupted and resumed."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from making import IMAGES, build_supernet, training_of
from torch import Tensor
from torch.nn import functional as F

import isnas
from isnas.cli import main
from isnas.commands.evaluate import test_saved as score_saved
from isnas.commands.evaluate import train_further
from isnas.networks.darts import NetworkOptions
from isnas.networks.operations import synchronise
from isnas.runs.training import Training
from isnas.runtime import files
from isnas.runtime import processes as distributed
from isnas.runtime.processes import joined, part_of, processes, rank
from isnas.searches.base import ones
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import create_search
from isnas.searches.two_stage import TwoStageSearch
from isnas.tasks.images import Batches, Dataset

CPU = torch.device("cpu")
CONTEXT = multiprocessing.get_context("forkserver")
# what takes seconds to import; the optimizers import the second
CONTEXT.set_forkserver_preload(["isnas", "torch._dynamo"])


def worker(number: int, of: int, port: int, out: Path, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    torchrun = (number, of, number, "127.0.0.1", port)
    os.environ.update(zip(distributed.ENVIRONMENT, map(str, torchrun), strict=True))
    try:
        result = function(*arguments)
    except BaseException:
        (out / f"{number}.txt").write_text(traceback.format_exc())
        raise
    torch.save(result, out / f"{number}.pt")


def in_processes(number: int, tmp_path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in so many processes, started as torchrun does, and return what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / f"processes-{port}"
    out.mkdir()
    started = [
        CONTEXT.Process(target=worker, args=(i, number, port, out, function, arguments))
        for i in range(number)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        process.kill()
    errors = [path.read_text() for path in out.glob("*.txt")]
    assert not errors, "\n".join(errors)
    return [torch.load(out / f"{i}.pt", weights_only=False) for i in range(number)]


def random_images(n: int = 48, size: int = 8) -> Dataset:
    random = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=random)
    labels = torch.arange(n) % 3
    return Dataset("random", images, labels, images, labels, ("a", "b", "c"), (0.5,), (0.3,))


def assert_close(a: Any, b: Any, tolerance: float, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_close(a[key], b[key], tolerance, f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, tolerance, f"{where}[{i}]")
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m: where + m)
    elif isinstance(a, float) and a == a:
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance), where
    else:
        assert a == b or (a != a and b != b), where


# --- single steps ----------------------------------------------------------------------------------------------------


def one_stage(**changes: Any) -> OneStageTraining:
    options = dict(
        channels=2,
        cells=3,
        batch_size=12,
        clip=0.5,
        drop_path=0.3,
        cutout=3,
        rule="best_subset",
        code_learning_rate=0.01,
        **{"sync_batch_norm": True, **changes},
    )
    return create_search("ista-one-stage", isnas.DARTS_SPACE, random_images(), CPU, **options)


def two_stage(**changes: Any) -> TwoStageSearch:
    options = dict(
        channels=2,
        cells=3,
        batch_size=12,
        clip=0.5,
        rule="best_subset",
        code_learning_rate=0.01,
        **{"sync_batch_norm": True, **changes},
    )
    return create_search("ista-two-stage", isnas.DARTS_SPACE, random_images(), CPU, **options)


def plain(**changes: Any) -> Training:
    options = dict(
        channels=2,
        cells=3,
        batch_size=12,
        drop_path=0.5,
        auxiliary_weight=0.4,
        cutout=3,
        **{"sync_batch_norm": True, **changes},
    )
    return training_of(isnas.GENOTYPES["DARTS_V2"], random_images(), **options)


def doubled(batch: Any) -> Any:
    if isinstance(batch, tuple):
        return tuple(map(doubled, batch))
    return batch.double() if batch.is_floating_point() else batch


def steps(make: Callable[..., Any], **changes: Any) -> dict[str, Any]:
    """Take steps in float64, two before and two after the supports change, and return what came of it."""
    stage = make(**changes)
    stage.network.double()
    searches = not isinstance(stage, Training)
    if searches:
        stage.code.double()
        stage.code.recover()
    stage.epoch = 3
    if isinstance(stage, OneStageTraining):
        stage.searched = 0  # the weights alone learn, with drop path
    supports, metrics, sent = [], [], []
    reduce = torch.distributed.all_reduce

    def counted(tensor: Tensor, *arguments: Any, **names: Any) -> Any:
        if "async_op" in names:  # gradients
            sent.append(tensor.numel())
        return reduce(tensor, *arguments, **names)

    batches = list(stage.batches(3, 0)) * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", counted)
        for i, batch in enumerate(batches[:4]):
            if i == 2 and searches:
                supports.append(list(stage.code.support))
                random = torch.Generator().manual_seed(rank())  # those of the first one count
                with torch.no_grad():
                    for b in stage.code.b:
                        b.copy_(torch.randn(b.shape, generator=random))
                stage.code.recover()
                supports.append(list(stage.code.support))
            if i == 2 and isinstance(stage, OneStageTraining):
                stage.searched = None  # b learns, too
            metrics.append(stage.train_step(doubled(batch)))
            stage.step += 1
    means: dict[str, dict[str, float]] = {"float32": {}, "float64": {}}
    for i, (name, value) in itertools.chain.from_iterable(
        [(i, item) for item in each.items()] for i, each in enumerate(metrics)
    ):
        kind = str(value.dtype).removeprefix("torch.")
        means[kind][f"{name} {i}"] = float(distributed.all_reduce_sum(value)) / processes()
    optimizers = [stage.weights.optimizer, *([stage.code_optimizer] if searches else [])]
    weights = list(stage.network.parameters())
    return {
        "float32": means["float32"],
        "float64": {
            "metrics": means["float64"],
            "network": dict(stage.network.state_dict()),
            "code": stage.code.state_dict() if searches else {},
            "optimizers": [optimizer.state_dict()["state"] for optimizer in optimizers],
        },
        "supports": supports,
        "sent": sent,
        "active": sum(p.numel() for p in weights if stage.weights.optimizer.state.get(p)),
        "parameters": sum(p.numel() for p in weights),
    }


def norm_of_parts(bfloat16: bool = False) -> tuple[Tensor, ...]:
    """Batch norm of this process's part of some images: output, gradients and gathered statistics.

    With bfloat16 as under autocast: images and what comes from above in bfloat16, the rest in float32.
    """
    lengths = {1: [8], 2: [1, 7], 3: [5, 1, 2]}[processes()]
    random = torch.Generator().manual_seed(0)
    x = 5 + torch.randn(sum(lengths), 3, 4, 2, dtype=torch.float64, generator=random)
    upper = torch.randn(x.shape, dtype=torch.float64, generator=random)
    vectors = torch.rand(4, 3, dtype=torch.float64, generator=random)
    if bfloat16:
        x, upper, vectors = x.bfloat16(), upper.bfloat16(), vectors.float()
    weight, bias, mean, var = vectors
    first = sum(lengths[: rank()])
    mine = slice(first, first + lengths[rank()])
    inputs = [each.requires_grad_() for each in (x[mine].clone(), weight, bias)]
    if processes() > 1:
        y = distributed.synchronised_batch_norm(inputs[0], mean, var, *inputs[1:], 0.1, 1e-5)
    else:
        y = F.batch_norm(inputs[0], mean, var, *inputs[1:], True, 0.1, 1e-5)
    lower, *others = torch.autograd.grad(y, inputs, upper[mine])
    return y.detach(), lower, *map(distributed.all_reduce_sum, others), mean, var


def shared_score() -> float:
    supernet = build_supernet(NetworkOptions(2, 3, 3, in_channels=1, closing_norm="pooling"))
    if processes() > 1:
        synchronise(supernet)
    batches = Batches(random_images(), batch_size=12, augment=False)
    coefficients = ones(isnas.GENOTYPES["DARTS_V2"], supernet, CPU)
    return IMAGES.shared_score(supernet, coefficients, batches.epoch(0))


WORK: dict[str, Callable[[], Any]] = {
    "one-stage": partial(steps, one_stage),
    "two-stage": partial(steps, two_stage),
    "plain": partial(steps, plain),
    "plain, own statistics": partial(steps, plain, sync_batch_norm=False),
    "norm": norm_of_parts,
    "norm in bfloat16": partial(norm_of_parts, bfloat16=True),
    "score": shared_score,
}


def work() -> dict[str, Any]:
    with joined():
        return {name: function() for name, function in WORK.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return work()


@pytest.fixture(scope="module", params=[2, 3])
def several(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    return in_processes(request.param, tmp_path_factory.mktemp("several"), work)


class TestSteps:
    @pytest.mark.parametrize("name", ["one-stage", "two-stage", "plain"])
    def test_steps_of_several_are_those_of_one_on_the_joined_batch(
        self, name: str, several: list[dict[str, Any]], alone: dict[str, Any]
    ) -> None:
        expected = alone[name]
        for each in several:
            assert_close(each[name]["float32"], expected["float32"], 1e-6)
            assert_close(each[name]["float64"], expected["float64"], 1e-11)
            # all go on with the same bits
            assert_close(each[name]["float64"], several[0][name]["float64"], 0)
        if name != "plain":
            before, after = expected["supports"]
            assert before != after

    def test_inactive_candidates_are_not_sent(self, several: list[dict[str, Any]]) -> None:
        found = several[0]["one-stage"]
        assert sum(found["sent"]) / 4 <= found["active"] < found["parameters"] / 2

    def test_without_synchronising_batch_norm_sees_the_part(
        self, several: list[dict[str, Any]], alone: dict[str, Any]
    ) -> None:
        name = "plain, own statistics"
        assert_close(alone[name], alone["plain"], 0)  # alone the option changes nothing
        nets = [each[name]["float64"]["network"] for each in (*several, alone)]
        for key in nets[0]:
            if "running" not in key:
                assert torch.equal(nets[0][key], nets[1][key])
        assert not torch.allclose(nets[0]["stem.0.weight"], nets[-1]["stem.0.weight"], rtol=1e-4)

    def test_synchronised_batch_norm_is_that_of_all_images(
        self, several: list[dict[str, Any]], alone: dict[str, Any]
    ) -> None:
        """Parts of different sizes, too, one of them of one image."""
        for name, of_images, of_channels in (
            ("norm", 1e-12, 1e-12),
            ("norm in bfloat16", 2e-2, 1e-2),  # it has 8 bits
        ):
            expected, found = alone[name], [each[name] for each in several]
            for i in (0, 1):  # output and gradient of the images
                parts = torch.cat([each[i] for each in found])
                torch.testing.assert_close(parts, expected[i], rtol=of_images, atol=of_images)
            for each in found:
                assert_close(each[2:], expected[2:], of_channels)
                # gathered statistics are not rounded
                assert_close(each[4:], expected[4:], min(of_channels, 1e-6))

    def test_shared_accuracy_is_of_all_images(
        self, several: list[dict[str, Any]], alone: dict[str, Any]
    ) -> None:
        assert [each["score"] for each in several] == [alone["score"]] * len(several)


# --- batches ---------------------------------------------------------------------------------------------------------


class TestBatches:
    @pytest.mark.parametrize("number", [2, 3])
    def test_the_parts_of_all_processes_are_the_batch(self, number: int) -> None:
        dataset = random_images(52)

        def epoch(part: tuple[int, int], **options: Any) -> list[tuple[Tensor, Tensor]]:
            return list(Batches(dataset, batch_size=12, part=part, **options).epoch(3, 1))

        for options in ({"cutout": 4}, {"split": "test"}, {"drop_last": False}):
            whole = epoch((0, 1), **options)
            parts = [epoch((i, number), **options) for i in range(number)]
            assert len(whole) == len(parts[0]) == 3 + ("cutout" not in options)
            for step, (x, y) in enumerate(whole):
                together = [torch.cat([each[step][i] for each in parts]) for i in (0, 1)]
                assert torch.equal(together[0], x)
                assert torch.equal(together[1], y)

    def test_parts_of_different_sizes_are_refused_in_training(self) -> None:
        with pytest.raises(isnas.UserError, match="12 images cannot be divided among 5 processes"):
            Batches(random_images(), batch_size=12, part=(0, 5))
        with (  # all there are
            pytest.raises(isnas.UserError, match="batch of 11 images"),
            pytest.warns(UserWarning, match="each step takes all 11"),
        ):
            Batches(random_images(11), batch_size=12, part=(0, 2))

    def test_part_of_covers_everything_once(self) -> None:
        for number, of in itertools.product(range(20), range(1, 8)):
            parts = [list(range(number))[part_of(number, i, of)] for i in range(of)]
            assert list(itertools.chain.from_iterable(parts)) == list(range(number))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


# --- whole runs ------------------------------------------------------------------------------------------------------

TRAIN = {
    "channels": 2,
    "cells": 3,
    "search_epochs": 2,
    "epochs": 1,
    "batch_size": 360,
    "device": "cpu",
    "drop_path": 0.3,
    "cutout": 2,
    "code_learning_rate": 1e-3,
    "sync_batch_norm": True,
    "checkpoint_steps": 2,
}
SEARCH = {
    "channels": 2,
    "cells": 3,
    "epochs": 2,
    "batch_size": 180,
    "device": "cpu",
    "evaluation_epochs": 1,
    "random_architectures": 0,
    "code_learning_rate": 1e-3,
    "sync_batch_norm": True,
}


def train(out: Path, stop_after: int = 0) -> dict[str, Any]:
    """Train; where `stop_after` > 0 the last process gets a signal in that step, and all stop."""
    if stop_after:
        step, left = OneStageTraining.train_step, [stop_after]

        def stopping(self: OneStageTraining, batch: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and rank() == processes() - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch)

        OneStageTraining.train_step = stopping
    try:
        if (out / "config.json").exists():
            return isnas.resume(out).results
        return isnas.train(out=out, **TRAIN).results
    except isnas.Interrupted:
        return {"interrupted": True}
    finally:
        if stop_after:
            OneStageTraining.train_step = step


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    out = tmp_path_factory.mktemp("reference")
    results = in_processes(2, out, train, out / "run")
    assert results[0] == results[1]
    return out / "run"


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("metrics.jsonl", "results.json", "genotype.json", "network.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    names = sorted(path.name for path in (a / "codes").iterdir())
    assert names == sorted(path.name for path in (b / "codes").iterdir())
    for name in names:
        assert (a / "codes" / name).read_bytes() == (b / "codes" / name).read_bytes(), name
    assert_close(files.read_tensors(a / "network.pt"), files.read_tensors(b / "network.pt"), 0)
    x, y = (files.read_tensors(sorted((run / "checkpoints").iterdir())[-2]) for run in (a, b))
    assert_close(x["state"], y["state"], 0)


@pytest.mark.slow
def test_a_run_of_two_is_that_of_one_up_to_rounding(reference: Path, tmp_path: Path) -> None:
    isnas.train(out=tmp_path / "alone", **TRAIN)
    runs = [isnas.RunRecord(path) for path in (reference, tmp_path / "alone")]
    assert [run.config["processes"] for run in runs] == [2, 1]
    assert runs[0].config["data"] == runs[1].config["data"]
    one, other = (
        [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
        for run in runs
    )
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, 1e-2)
    results = [json.loads((run.directory / "results.json").read_text())["search"] for run in runs]
    assert results[0]["genotype"] == results[1]["genotype"]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], abs=1e-3)
    # the test, whose images were shared, is that of the network that was written
    tested = score_saved(reference / "network.pt", batch_size=240, device="cpu")
    assert results[0]["test_accuracy"] == tested["test_accuracy"]
    assert results[0]["test_loss"] == pytest.approx(tested["test_loss"], rel=1e-5)


@pytest.mark.slow
def test_interrupted_and_resumed_run_ends_as_the_uninterrupted_one(
    reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for stop_after in (2, 4):  # inside an epoch, and at the end of one
        assert in_processes(2, tmp_path, train, run, stop_after) == [{"interrupted": True}] * 2
    results = in_processes(2, tmp_path, train, run)
    assert results[0] == results[1] == json.loads((run / "results.json").read_text())
    assert_same_run(reference, run)


EVALUATE = {
    "channels": 2,
    "cells": 3,
    "epochs": 1,
    "batch_size": 240,
    "device": "cpu",
    "sync_batch_norm": True,
}
FURTHER = {name: value for name, value in EVALUATE.items() if name not in ("channels", "cells")}


def search_and_evaluate(out: Path) -> tuple[Any, ...]:
    """All that a script may do one after the other."""
    found = isnas.search(out=out / "search", **SEARCH)
    trained = isnas.evaluate(found.genotype, out=out / "evaluate", **EVALUATE)
    further = train_further(out / "evaluate/network.pt", out=out / "further", **FURTHER)
    tested = score_saved(out / "further/network.pt", batch_size=240, device="cpu")
    norm = found.network.stem[1].running_mean
    return str(found.genotype), found.results, trained.results, further.results, tested, norm


@pytest.mark.slow
def test_search_evaluate_and_test_give_what_one_process_gives(tmp_path: Path) -> None:
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
    found = in_processes(2, tmp_path, search_and_evaluate, tmp_path / "together")
    assert_close(found[0], found[1], 0)
    alone = search_and_evaluate(tmp_path / "alone")
    assert_close(found[0][:1], alone[:1], 0)
    for a, b in zip(found[0][1:], alone[1:], strict=True):
        assert_close(a, b, 1e-2)


# --- mistakes --------------------------------------------------------------------------------------------------------


def complaints(lines: list[list[str]]) -> list[tuple[int, str]]:
    """Run command lines and return for each its status, and what this process prints of it."""
    found = []
    for arguments in lines:
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(arguments)
            except SystemExit as stop:
                status = int(stop.code)
        found.append((status, error.getvalue()))
    return found


TINY = [
    "train",
    "--device",
    "cpu",
    "--channels",
    "2",
    "--cells",
    "3",
    "--search-epochs",
    "1",
    "--batch-size",
    "240",
]


def test_mistakes_are_told_once(reference: Path, tmp_path: Path) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    words = {
        (
            "resume",
            str(run),
        ): r"was begun with 2 processes and goes on with as many only, not with 3",
        ("resume", str(tmp_path)): "holds no run",
        (*TINY, "--out", str(run)): "holds a run already",
        (*TINY, "--epochs", "-1"): "epochs must be at least 1",
        (*TINY, "--nonsense"): "nonsense",
        (*TINY, "--batch-size", "64"): "64 images cannot be divided among 3 processes",
        (*TINY, "--device", "cuda:0"): "'cuda:0' is one for all processes",
        ("compare",): "compare is not for torchrun",
        (*TINY, "--data", str(tmp_path)): "no folder",
        (
            *TINY,
            *("--out", str(tmp_path / "wild"), "--learning-rate", "1e30", "--clip", "0"),
        ): "training has diverged",
    }
    found = in_processes(3, tmp_path, complaints, [list(line) for line in words])
    for i, expected in enumerate(words.values()):
        told = [each[i][1] for each in found]
        assert [each[i][0] for each in found] == [2] * 3, told
        text = "".join(told)
        errors = [line for line in text.splitlines() if "error" in line]
        assert len(errors) == 1, told
        assert expected in errors[0]
    ((status, text),) = complaints([["resume", str(run)]])  # alone
    assert status == 2
    assert "begun with 2 processes" in text
    assert "not with 1 process" in text
    assert text.count("\n") == 1


def failing_writer(out: Path) -> str:
    """The first process cannot write: all end with its error."""
    if os.environ["RANK"] == "0":
        isnas.runs.directory.Run.write_recovery = full
    try:
        isnas.train(out=out, **TRAIN)
    except isnas.UserError as error:
        return str(error)
    return "trained"


def full(*_: Any) -> None:
    raise isnas.UserError("No space left on device")


def dying(out: Path) -> str:
    """The last process dies in a step: the others say so instead of waiting."""

    def die(*_: Any) -> None:
        os._exit(0)

    try:
        with joined():
            if rank() == processes() - 1:
                torch.save("died", out)
                OneStageTraining.train_step = die
            isnas.train(out=out.with_name("run"), **TRAIN)
    except isnas.UserError as error:
        return str(error)
    return "trained"


def test_what_befalls_one_process_ends_all(tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, failing_writer, tmp_path / "full")
    assert found == ["No space left on device"] * 2


def test_a_process_that_dies_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # the dead one has returned nothing
        in_processes(2, tmp_path, dying, tmp_path / "died")
    told = torch.load(next(tmp_path.glob("processes-*/0.pt")), weights_only=False)
    assert "another process of this run has stopped" in told


# --- the real launcher -----------------------------------------------------------------------------------------------


def torchrun(*arguments: str, number: int = 2, script: Path | None = None) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    what = ["-m", "isnas"] if script is None else [str(script)]
    return subprocess.Popen(
        [*launcher, "--standalone", *what, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


LEAVING = """
import os
import torch
from isnas.runtime.processes import any_of, joined

def of_gloo():
    names = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

with joined():
    any_of(True)
    inside = of_gloo()
    # imports what may keep the group
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()
print("threads", inside > 0, of_gloo())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists threads as Linux does")
def test_block_leaves_no_threads(tmp_path: Path) -> None:
    """A process that ends with threads of the communication running may abort."""
    script = tmp_path / "script.py"
    script.write_text(LEAVING)
    shown, error = torchrun(script=script).communicate(timeout=120)
    assert shown.splitlines() == ["threads True 0"] * 2, error


@pytest.mark.slow
def test_torchrun_train_interrupt_resume(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in TRAIN.items()
    ]
    process = torchrun("train", *options, "--out", str(run))
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert error.count("interrupted; go on with: isnas resume") == 1, error
    assert "by torchrun with 2 processes again" in error
    assert metrics.read_text().count("\n") < (reference / "metrics.jsonl").read_text().count("\n")
    process = torchrun("resume", str(run))
    shown, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert shown.count("test accuracy: ") == 1
    assert error.count("going on with") == 1
    assert_same_run(reference, run)
