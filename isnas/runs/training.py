"""What all training of weights shares: SGD with a schedule and clipping, the loss, the accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tasks.images import Batches, Dataset
from ..runtime.processes import average_gradients, averaging, local_rank, processes, share_state, summed
from .loop import Stage
from ..runtime.errors import UserError
from ..networks.darts import NetworkOptions
from ..networks.operations import ClosingNorm, synchronise
from .options import EvaluateOptions, RunOptions
from ..runtime.randomness import generator
from ..codes.sparse import SparseCodeOptions
from ..networks.core import CellNetwork, Coefficients, drop_path


def resolve_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is CUDA, else MPS, else the CPU.

    Where several processes work together ``cuda`` is for each the one of its number on its machine.

    Raises
    ------
    UserError
        When there is no such device here.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available() and processes() == 1
            else "cpu"
        )
    if processes() > 1 and name.startswith(("cuda:", "mps")):
        raise UserError(f"device {name!r} is one for all processes; expected auto, cpu or cuda")
    if processes() > 1 and name == "cuda":
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"device {name!r} cannot be used here; expected auto, cpu, cuda, cuda:N or mps"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device


def check_compiler(device: torch.device) -> None:
    """Raise a `UserError` unless torch.compile works for this device; what it needs differs from machine to machine."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds
        raise UserError(
            f"compile: torch.compile does not work here: {str(error).strip().splitlines()[0]}"
        ) from None


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Use so many threads inside the block. Sums, and so all results, depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def send(network: CellNetwork, device: torch.device) -> CellNetwork:
    """Return the network on the device, its weights laid out as is fastest there.

    On the CPU that is channels last, and the feature maps follow: a training step takes half to three quarters of the
    time (``benchmarks/layout.py``).
    """
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    return network.to(device, memory_format=layout)


def cosine(start: float, end: float, done: float) -> float:
    """Return the half cosine from `start` to `end` at the share `done` (0 to 1) of the way (SGDR, arXiv 1608.03983)."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def linear(start: float, end: float, done: float) -> float:
    """Return the point of the line from `start` to `end` at the share `done` (0 to 1) of the way."""
    return end + (start - end) * (1 - done)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right answers, a 0-d tensor."""
    return (logits.argmax(1) == labels).float().mean()


class Weights:
    """A network and the SGD that trains it.

    Parameters with no gradient are left alone: neither weight decay nor momentum moves an inactive candidate.
    """

    def __init__(self, network: CellNetwork, options: RunOptions) -> None:
        share_state(network)
        if options.sync_batch_norm and processes() > 1:
            synchronise(network)
        self.network = network
        self.run: Callable[..., Any] = network
        self.options = options
        # once: to collect those of a super-net takes as long as a few layers' work
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    def compile(self) -> None:
        """Compile the network as it is called from now on, if the options say so: its architecture is to stay."""
        if self.options.compile:
            torch.compiler.reset()  # networks before this one: only so many are kept compiled
            self.run = torch.compile(self.network)

    def set_learning_rate(self, done: float, epoch: int | None = None) -> None:
        """Set the learning rate for the share `done` of the schedule.

        `epoch` is that of the run, for the warm-up; by default it is the one that `done` says.
        """
        options = self.options
        schedule = {"cosine": cosine, "linear": linear}[options.schedule]
        rate = schedule(options.learning_rate, options.min_learning_rate, done)
        if options.warm_up_epochs:
            epoch = round(done * options.epochs) if epoch is None else epoch
            rate *= min(1, (epoch + 1) / options.warm_up_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def kept(
        self,
        rate: float,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None,
        *names: str | int,
    ) -> Tensor:
        """Draw the drop path of the step that `names` say, see `isnas.networks.core.drop_path`."""
        random = generator(self.options.seed, "drop path", *names, device=x.device)
        return drop_path(self.network.active(coefficients), len(x), rate, random)

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        auxiliary_weight: float = 0.0,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the training loss, with the auxiliary head's part, and the scores (B, classes).

        `coefficients` and `kept` are for the network, see `CellNetwork.forward`.
        """
        if auxiliary_weight == 0:
            with self.precision(x.device):
                logits = self.run(x, coefficients, kept=kept)
            return self.cross_entropy(logits, y), logits
        with self.precision(x.device):
            logits, side = self.run(x, coefficients, auxiliary=True, kept=kept)
        loss = self.cross_entropy(logits, y) + auxiliary_weight * self.cross_entropy(side, y)
        return loss, logits

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Let no weight need a gradient inside the block: nothing is kept for them when only a code is to learn."""
        trainable = [parameter for parameter in self.parameters if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def precision(self, device: torch.device) -> torch.autocast:
        """Return the context in which the network runs on `device` while training, as the options say."""
        low = self.options.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=low)

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the training loss of scores (B, classes), the labels smoothed as the options say."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, y, label_smoothing=self.options.label_smoothing)

    def update(self) -> None:
        """Clip the gradients that are there, the means of all processes', and take a step; then drop them."""
        trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        average_gradients(trained)
        if self.options.clip > 0:
            nn.utils.clip_grad_norm_(trained, self.options.clip)
        self.optimizer.step()
        for parameter in trained:
            parameter.grad = None

    def stateful(self) -> dict[str, Any]:
        """Return what has a state, see `isnas.runs.loop.Stage.stateful`."""
        return {"network": self.network, "optimizer": self.optimizer}


def code_optimizer(parameters: Iterable[Tensor], options: SparseCodeOptions) -> torch.optim.Adam:
    """Return the codes' Adam, with the betas of DARTS; it takes the means of all processes' gradients."""
    optimizer = torch.optim.Adam(
        parameters,
        lr=options.code_learning_rate,
        betas=(0.5, 0.999),
        weight_decay=options.code_weight_decay,
    )
    averaging(optimizer)
    return optimizer


@torch.no_grad()
def score(network: CellNetwork, batches: Batches) -> dict[str, float]:
    """Return ``test_accuracy`` (0 to 1) and ``test_loss`` (mean cross-entropy) of a discrete network.

    Several processes share the work.
    """
    share_state(network)  # statistics that each process has gathered for itself
    was_training = network.training
    network.eval()
    right = loss = torch.zeros((), device=batches.device)
    for x, y in batches.epoch(0):
        if len(y) == 0:  # fewer images than processes
            continue
        logits = network(x)
        right = right + (logits.argmax(1) == y).sum()
        loss = loss + F.cross_entropy(logits, y, reduction="sum")
    network.train(was_training)
    n = len(batches.indices)
    return {"test_accuracy": float(summed(right)) / n, "test_loss": float(summed(loss)) / n}


def network_options(
    options: RunOptions,
    dataset: Dataset,
    closing_norm: ClosingNorm = "none",
    auxiliary: bool = False,
) -> NetworkOptions:
    """Return the shape of a network for `dataset`, as `options` say."""
    return NetworkOptions(
        channels=options.channels,
        cells=options.cells,
        classes=len(dataset.classes),
        in_channels=dataset.channels,
        stem=options.stem,
        auxiliary=auxiliary,
        closing_norm=closing_norm,
    )


class Training(Stage):
    """Training of a discrete network.

    Parameters
    ----------
    network : CellNetwork
    options : EvaluateOptions
    dataset : Dataset
    device : torch.device
    indices : Tensor of int64, optional
        The training images to use; by default all.
    """

    title = "training"

    def __init__(
        self,
        network: CellNetwork,
        options: EvaluateOptions,
        dataset: Dataset,
        device: torch.device,
        indices: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.device = device
        self.network = send(network, device).train()
        self.weights = Weights(self.network, options)
        self.weights.compile()
        self.train_batches = Batches(
            dataset,
            batch_size=options.batch_size,
            indices=indices,
            seed=options.seed,
            stream="evaluation",
            augment=True,
            cutout=options.cutout,
            device=device,
        )

    @property
    def epochs(self) -> int:
        return self.options.epochs

    @property
    def steps(self) -> int:
        return len(self.train_batches)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.train_batches.epoch(epoch, start)

    def train_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        done = self.epoch / self.epochs
        self.weights.set_learning_rate(done, self.epoch)
        kept = None
        if self.options.drop_path > 0:
            rate = self.options.drop_path * done
            kept = self.weights.kept(rate, x, None, "evaluation", self.epoch, self.step)
        loss, logits = self.weights.loss(x, y, None, self.options.auxiliary_weight, kept)
        loss.backward()
        self.weights.update()
        return {"train_loss": loss.detach(), "train_accuracy": hits(logits, y)}

    def stateful(self) -> dict[str, Any]:
        return self.weights.stateful()
