"""Common parts of the tests of the core: tiny data whose test part must not be touched, and a driver of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
import torch
from making import nodes_of
from torch import Tensor

from isnas.codes.sparse import NodeRecovery, SparseCode
from isnas.runs.loop import Stage
from isnas.spaces.base import Place, Space
from isnas.tabular.nasbench201 import Table
from isnas.tasks.images import Dataset

# the same examples in every run, and no time limit that a busy machine would exceed
hypothesis.settings.register_profile("isnas", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("isnas")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which lose much time where processors are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def nasbench201() -> Table:
    """The benchmark's own table, where it is at hand."""
    path = Path(__file__).parents[2] / "../shared/data/nasbench201.csv.gz"
    if not path.exists():
        pytest.skip("the table of NAS-Bench-201 is not here")
    return Table.read(path)


class Untouchable:
    """Test data that fail the test when anything of them is used."""

    def _refuse(self, *_: object) -> NoReturn:
        raise AssertionError("the search has used the test data")

    __getattr__ = __getitem__ = __len__ = __iter__ = __array__ = _refuse


@pytest.fixture
def toy_data() -> Callable[..., Dataset]:
    """Return a maker of random images with labels; what belongs to the test cannot be used."""

    def make(n: int = 32, classes: int = 4, channels: int = 1, size: int = 8) -> Dataset:
        random = torch.Generator().manual_seed(n + size)
        images = torch.randint(
            0, 256, (n, channels, size, size), dtype=torch.uint8, generator=random
        )
        return Dataset(
            name="toy",
            train_images=images,
            train_labels=torch.arange(n) % classes,
            test_images=Untouchable(),
            test_labels=Untouchable(),
            classes=tuple(map(str, range(classes))),
            mean=(0.5,) * channels,
            std=(0.3,) * channels,
        )

    return make


@dataclass
class Recorder:
    """Stands for a run directory: remembers what a stage tells it."""

    recoveries: list[list[NodeRecovery]] = field(default_factory=list)
    frozen: list[list[bool]] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)

    def write_matrices(self, code: SparseCode) -> None:
        """Take the matrices."""

    def write_recovery(
        self, recovery: list[NodeRecovery], frozen: list[bool], refused: bool = False
    ) -> None:
        """Remember a recovery."""
        self.recoveries.append(recovery)
        self.frozen.append(list(frozen))
        self.refused.append(refused)


@pytest.fixture
def recorder() -> Recorder:
    """Return what stands for a run directory."""
    return Recorder()


@pytest.fixture
def drive() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs epochs of a stage, by default all, and returns the metrics of their ends."""

    def run(
        stage: Stage,
        recorder: Recorder,
        epochs: int | None = None,
        before_end: Callable[[Stage], None] | None = None,
    ) -> list[dict[str, Any]]:
        ends = []
        while stage.epoch < stage.epochs and (epochs is None or len(ends) < epochs):
            for batch in stage.batches(stage.epoch, stage.step):
                stage.train_step(batch)
                stage.step += 1
            if before_end is not None:
                before_end(stage)
            ends.append(stage.end_epoch(recorder))
            stage.epoch, stage.step = stage.epoch + 1, 0
        return ends

    return run


@pytest.fixture
def take_steps() -> Callable[..., list[dict[str, Tensor]]]:
    """Return a function that takes so many steps of a stage, epoch after epoch, and returns their metrics."""

    def take(stage: Stage, recorder: Recorder, number: int) -> list[dict[str, Tensor]]:
        found = []
        while stage.epoch < stage.epochs and len(found) < number:
            for batch in stage.batches(stage.epoch, stage.step):
                found.append(stage.train_step(batch))
                stage.step += 1
                if len(found) == number:
                    break
            if stage.step == stage.steps:
                stage.end_epoch(recorder)
                stage.epoch, stage.step = stage.epoch + 1, 0
        return found

    return take


@pytest.fixture
def steer() -> Callable[..., None]:
    """Return a function that sets a code's b such that `best_subset` finds just the given operations.

    With b = A z for a z of so few entries, their places are the only ones with no residual.
    """

    def set_b(
        code: SparseCode, space: Space, choose: Callable[[Place], bool], size: float = 1.0
    ) -> None:
        with torch.no_grad():
            for i, ((_, node), A) in enumerate(zip(nodes_of(code), code.A, strict=True)):
                wanted = [k for k, p in enumerate(space.candidates(node)) if choose(p)][:2]
                z = torch.zeros(A.shape[1], dtype=A.dtype)
                z[wanted] = size
                code.b[i].copy_(A @ z)

    return set_b


@pytest.fixture
def fill_norms() -> Callable[[torch.nn.Module, int], None]:
    """Return a function that gives every batch norm an affine part and statistics of its own."""

    def fill(module: torch.nn.Module, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)

        def drawn(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=random, dtype=like.dtype)

        with torch.no_grad():
            for norm in module.modules():
                if isinstance(norm, torch.nn.BatchNorm2d):
                    norm.weight.copy_(0.5 + drawn(norm.weight))
                    norm.bias.copy_(drawn(norm.bias) - 0.5)
                    norm.running_mean.copy_(drawn(norm.running_mean) - 0.5)
                    norm.running_var.copy_(0.5 + drawn(norm.running_var))

    return fill
