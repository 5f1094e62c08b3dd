"""The recipe of training: schedules, warm-up and smoothed labels are PyTorch's, and ImageNet's way runs and resumes."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import trainer_of
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import isnas
from isnas import DARTS_SPACE, UserError, cli, commands
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.training import Training, WeightTrainer, to_device
from isnas.runtime import files
from isnas.runtime.progress import Progress
from isnas.tasks.images import Dataset
from isnas.tasks.registry import task_of


class Scores(nn.Module):
    """Stands for a network: its scores are its weights, times a factor in the auxiliary head."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(
        self, x: torch.Tensor, coefficients: None, auxiliary: bool = False, **_: Any
    ) -> Any:
        return (self.scores, 3 * self.scores) if auxiliary else self.scores


def weights(**options: Any) -> WeightTrainer:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 4, generator=random)
    return trainer_of(Scores(scores), **options)


def rates(made: WeightTrainer, epochs: int) -> list[float]:
    found = []
    for epoch in range(epochs):
        made.set_learning_rate(epoch / epochs, epoch)
        found.append(made.optimizer.param_groups[0]["lr"])
    return found


class TestLayout:
    @pytest.mark.parametrize("layout", ["fastest", "channels-last", "contiguous"])
    def test_is_an_option(self, layout: str) -> None:
        """Weights lie channels last on the CPU by default."""
        network = isnas.build_network(isnas.GENOTYPES["DARTS_V2"], channels=2, cells=3)
        weight = to_device(network, torch.device("cpu"), layout).stem[0].weight
        last = layout != "contiguous"
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
        assert weight.is_contiguous() != last


class TestSchedule:
    @pytest.mark.parametrize("warm_up", [0, 1, 5])
    @pytest.mark.parametrize("schedule", ["cosine", "linear"])
    @pytest.mark.parametrize("least", [0.0, 0.01])
    def test_it_is_pytorchs(self, schedule: str, warm_up: int, least: float) -> None:
        epochs, start = 12, 0.5
        sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=start)
        if schedule == "cosine":
            expected = lr_scheduler.CosineAnnealingLR(sgd, epochs, eta_min=least)
        else:
            expected = lr_scheduler.LinearLR(sgd, 1.0, least / start, total_iters=epochs)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimizer is taken
            for epoch in range(epochs):
                rate = expected.get_last_lr()[0]
                found.append(start * (epoch + 1) / warm_up if epoch < warm_up else rate)
                expected.step()
        made = weights(
            learning_rate=start,
            min_learning_rate=least,
            schedule=schedule,
            warm_up_epochs=warm_up,
            epochs=epochs,
        )
        assert rates(made, epochs) == pytest.approx(found, rel=1e-9)

    def test_linear_tail_is_that_of_the_imagenet_scripts(self) -> None:
        """It is ``adjust_lr`` of PC-DARTS and ISTA-NAS, with the warm-up that overwrites its first five epochs."""
        epochs, start = 250, 0.5
        expected = []
        for epoch in range(epochs):
            if epoch < 5:
                expected.append(start * (epoch + 1) / 5)
            elif epochs - epoch > 5:
                expected.append(start * (epochs - 5 - epoch) / (epochs - 5))
            else:
                expected.append(start * (epochs - epoch) / ((epochs - 5) * 5))
        preset = evaluation_schema(DARTS_SPACE).compose("imagenet").optimizer
        made = weights(**vars(preset))
        assert rates(made, epochs) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("epochs", [1, 5, 6])
    def test_linear_tail_of_few_epochs_falls(self, epochs: int) -> None:
        shared = {"epochs": epochs, "min_learning_rate": 0.01}
        tail = rates(weights(schedule="linear-tail", **shared), epochs)
        line = rates(weights(schedule="linear", **shared), epochs)
        assert tail[0] == line[0] == 0.05 and min(tail) > 0.01
        assert tail == line if epochs < 6 else sorted(tail, reverse=True) == tail

    def test_nesterov_is_pytorchs(self) -> None:
        made = weights(nesterov=True, momentum=0.5, learning_rate=0.1, weight_decay=0.0, clip=0.0)
        parameter = made.parameters[0]
        before = parameter.detach().clone()
        for _ in range(2):
            parameter.grad = torch.ones_like(parameter)
            made.update()
        # buffers 1 and 1.5; a step is the gradient and half the buffer
        assert torch.allclose(before - parameter, torch.full_like(before, 0.1 * (1.5 + 1.75)))
        with pytest.raises(UserError, match="nesterov needs a momentum above 0"):
            weights(nesterov=True, momentum=0.0)

    def test_warm_up_is_pytorchs(self) -> None:
        sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        expected = lr_scheduler.LinearLR(sgd, 1 / 5, 1.0, total_iters=4)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            for _ in range(8):
                found.append(expected.get_last_lr()[0])
                expected.step()
        made = weights(learning_rate=0.5, min_learning_rate=0.5, warm_up_epochs=5, epochs=8)
        assert rates(made, 8) == pytest.approx(found)

    def test_the_epoch_is_by_default_that_of_the_schedule(self) -> None:
        made, other = (weights(warm_up_epochs=5, epochs=7) for _ in range(2))
        for epoch in range(7):
            made.set_learning_rate(epoch / 7)
            other.set_learning_rate(epoch / 7, epoch)
            one, two = (each.optimizer.param_groups[0]["lr"] for each in (made, other))
            assert one == two

    def test_one_stage_warms_up_in_its_first_epochs_only(self, tmp_path: Path) -> None:
        seen = []
        original = WeightTrainer.set_learning_rate

        def record(
            self: WeightTrainer, done: float, epoch: int | None = None, *more: object
        ) -> None:
            original(self, done, epoch, *more)
            seen.append((epoch, self.optimizer.param_groups[0]["lr"]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WeightTrainer, "set_learning_rate", record)
            isnas.train(
                out=tmp_path / "run",
                channels=2,
                cells=3,
                batch_size=700,
                device="cpu",
                search_epochs=3,
                epochs=2,
                learning_rate=0.1,
                schedule="linear",
                warm_up_epochs=2,
            )
        by_epoch = [dict(seen)[epoch] for epoch in range(5)]
        assert by_epoch == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.05])


class TestLabelSmoothing:
    def test_it_is_pytorchs_in_both_heads(self) -> None:
        y = torch.tensor([0, 3, 1, 1, 2, 0])
        made = weights(label_smoothing=0.1)
        scores = made.network.scores
        main = F.cross_entropy(scores, y, label_smoothing=0.1)
        side = F.cross_entropy(3 * scores, y, label_smoothing=0.1)
        assert torch.equal(made.loss((scores, y))[0], main)
        loss, metrics = made.loss((scores, y), auxiliary_weight=0.4)
        assert torch.equal(loss, main + 0.4 * side) and torch.equal(metrics["loss"], loss)
        assert metrics["accuracy"] == (scores.argmax(1) == y).float().mean()

    def test_it_is_the_mean_over_classes_of_its_share(self) -> None:
        y = torch.tensor([0, 3, 1, 1, 2, 0])
        made = weights(label_smoothing=0.2)
        logs = made.network.scores.log_softmax(1)
        target = 0.8 * F.one_hot(y, 4) + 0.2 / 4
        expected = -(target * logs).sum(1).mean()
        assert made.loss((logs, y))[0].item() == pytest.approx(expected.item(), rel=1e-6)

    def test_none_by_default(self) -> None:
        y = torch.tensor([0, 3, 1, 1, 2, 0])
        made = weights()
        assert torch.equal(
            made.loss((made.network.scores, y))[0], F.cross_entropy(made.network.scores, y)
        )


class Killed(Exception):
    """Stands for a crash."""


class KilledAt(Progress):
    """Crashes when it hears of a step for the n-th time."""

    def __init__(self, n: int) -> None:
        super().__init__(quiet=True)
        self.left = n

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class TestImageNetsWay:
    """Random parts of JPEG files, warm-up, a line and smoothed labels, all at once."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        random = np.random.default_rng(0)
        for split, n in (("train", 14), ("val", 5)):
            for c, name in enumerate("ab"):
                (tmp_path / "images" / split / name).mkdir(parents=True)
                for i in range(n):
                    small = random.integers(0, 128, (4, 5, 3), dtype=np.uint8) + np.uint8(100 * c)
                    image = Image.fromarray(small).resize((50 + i, 40), Image.Resampling.BICUBIC)
                    image.save(tmp_path / "images" / split / name / f"{i}.jpg")
        return tmp_path / "images"

    def options(self, folder: Path, **changes: Any) -> dict[str, Any]:
        return dict(
            data=str(folder),
            image_size=16,
            crop="resized",
            colour_jitter=0.4,
            channels=2,
            cells=3,
            epochs=3,
            batch_size=8,
            device="cpu",
            schedule="linear",
            warm_up_epochs=2,
            label_smoothing=0.1,
            checkpoint_steps=2,
            **changes,
        )

    def test_a_run_with_corrupt_images_resumes_bit_for_bit(
        self, folder: Path, tmp_path: Path
    ) -> None:
        for name in ("train/a/3.jpg", "train/b/13.jpg", "val/a/4.jpg"):
            (folder / name).write_bytes((folder / name).read_bytes()[:200])
        options = self.options(folder, corrupt="skip")
        genotype = isnas.GENOTYPES["ISTA_twostage"]
        with pytest.warns(UserWarning, match="stands in for it") as caught:
            whole = isnas.evaluate(genotype, out=tmp_path / "whole", **options)
        assert len({str(each.message) for each in caught}) == len(caught) == 3
        with pytest.warns(UserWarning, match="stands in for it"), pytest.raises(Killed):
            isnas.evaluate(genotype, out=tmp_path / "killed", progress=KilledAt(5), **options)
        with pytest.warns(UserWarning, match="stands in for it"):
            resumed = isnas.resume(tmp_path / "killed")
        assert resumed.results == whole.results
        for name in ("metrics.jsonl", "network.json", "results.json"):
            assert (tmp_path / "killed" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()
        states = [files.read_tensors(tmp_path / run / "network.pt") for run in ("whole", "killed")]
        assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
        config = json.loads((tmp_path / "whole" / "config.json").read_text())
        assert config["data"]["crop"] == config["options"]["crop"] == "resized"

    def test_a_saved_network_is_tested_in_its_way_without_training_images(
        self, folder: Path, tmp_path: Path
    ) -> None:
        genotype = isnas.GENOTYPES["ISTA_twostage"]
        whole = isnas.evaluate(genotype, out=tmp_path / "run", **self.options(folder))
        for path in (folder / "train").glob("*/*"):
            path.unlink()
        tested = commands.test_saved(tmp_path / "run" / "network.pt", batch_size=8, device="cpu")
        before = whole.results["evaluate"]
        assert tested["test_accuracy"] == before["test_accuracy"]
        # elsewhere in memory the same convolution may add in another order
        assert tested["test_loss"] == pytest.approx(before["test_loss"], rel=1e-6)

    def test_a_saved_network_knows_its_way(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        isnas.evaluate("ISTA_twostage", out=tmp_path / "run", **self.options(folder))
        used = []

        def test_saved(path: str, progress: Progress, **options: Any) -> dict[str, float]:
            used.append((options["crop"], options["image_size"], options.get("corrupt")))
            return {"parameters": 1, "multiply_adds": 1, "test_accuracy": 1.0, "images": 1}

        monkeypatch.setattr(cli, "test_saved", test_saved)
        command = ["evaluate", "--network", str(tmp_path / "run" / "network.pt")]
        assert cli.main(command) == 0
        assert cli.main([*command, "--crop", "pad", "--corrupt", "skip"]) == 0
        assert used == [("resized", 16, None), ("pad", 16, "skip")]

    def test_a_corrupt_image_is_refused_by_its_path(self, folder: Path, tmp_path: Path) -> None:
        (folder / "train" / "a" / "3.jpg").write_bytes(b"nonsense")
        with pytest.raises(isnas.UserError, match=r"not a readable image: .*train.a.3\.jpg"):
            isnas.evaluate("ISTA_twostage", out=tmp_path / "run", **self.options(folder))


def test_a_warm_up_longer_than_the_run_is_said(toy_data: Callable[..., Dataset]) -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    data = toy_data()
    task = task_of(genotype.space)
    shape = {"channels": 2, "cells": 3, "batch_size": 8, "epochs": 2}
    for warm_up in (2, 3):
        recipe = evaluation_schema(genotype.space).compose(**shape, warm_up_epochs=warm_up)
        network = from_scratch(genotype, recipe, task, data)
        expected: Any = contextlib.nullcontext()
        if warm_up > 2:
            expected = pytest.warns(UserWarning, match="warm_up_epochs 3 is more than the 2 epochs")
        with expected:
            Training(network, recipe, task, data, torch.device("cpu"))
