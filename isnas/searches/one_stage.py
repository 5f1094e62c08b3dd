"""One-stage training (ISTA-NAS, algorithm 2): search inside the target network, then train it on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.sparse import NodeRecovery
from ..networks.core import CellNetwork, train_affine
from ..networks.folding import fold
from ..runs.evaluation import EVALUATION_PRESETS
from ..runs.training import named
from ..runtime.options import BaseOptions, Composition
from ..runtime.processes import broadcast
from ..runtime.randomness import generator
from ..tasks.base import Feed, Task
from .base import Setting
from .limits import Limits
from .sparse_search import (
    RECURRENT_CODE,
    SMOOTHED,
    SMOOTHED_201,
    SMOOTHED_DARTS,
    SparseSearch,
    SparseSearchOptions,
    changed_nodes,
)


@dataclass(frozen=True)
class OneStageOptions(SparseSearchOptions):
    """Options of one-stage training: search inside the target network, then its normal schedule of `epochs`.

    Parameters
    ----------
    search_epochs : int
        Epochs of search at most; what is not frozen then is frozen as it is.
    freeze_threshold : float
        A node is frozen when its z moved by no more than this between two recoveries.
    freeze_by : {"solution", "cut"}
        The z that is meant: the whole solution, as in the published code, or what the cut leaves of it.
    freeze_floor : float
        A node is not frozen before ||z|| is this many times the threshold: it must have moved before it can settle.
    """

    least: ClassVar[dict[str, float]] = {
        **SparseSearchOptions.least,
        "search_epochs": 1,
        "freeze_threshold": 0,
        "freeze_floor": 0,
    }

    search_epochs: int = 15
    freeze_threshold: float = 1e-3
    freeze_by: Literal["solution", "cut"] = "solution"
    freeze_floor: float = 10.0


class OneStageTraining(SparseSearch):
    """Search and training in one run, in the target network, on all the training data.

    While searching, weights and codes follow the same loss in the same backward pass, at the full learning rate. (By
    the score the codes follow the losses of pairs on the weights' batch, before the weights do, and all coefficients
    are 1.) After every epoch z is recovered; a node that has settled is frozen: its coefficients stay, and its
    operations' batch norms become trainable. When all are frozen the normal schedule of `options.optimizer.epochs`
    begins.
    """

    title = "one-stage training"
    method_options = OneStageOptions
    role = "fold"
    budgeted = ("epochs", "search_epochs")
    least_epochs = 2
    defaults: ClassVar[dict[str, Any]] = {
        "min_learning_rate": 0.0,
        "evaluation_epochs": 0,
        "random_architectures": 0,
    }
    defaults_in: ClassVar = {"recurrent": {**RECURRENT_CODE, "search_epochs": 6, "epochs": 6}}
    presets: ClassVar = {
        "paper": {
            "darts": {
                **EVALUATION_PRESETS["paper"]["darts"],
                "matrix": "uniform",
                "code_learning_rate": 3e-4,
                "min_learning_rate": 0.001,
                "drop_skips": True,
                "search_epochs": 600,
                "limit": ("parameters=3.7M",),
            },
            # nobody's: DARTS's final training, with a search of as many epochs as DARTS's before it
            "recurrent": {
                **EVALUATION_PRESETS["paper"]["recurrent"],
                "code_learning_rate": 3e-3,
                "search_epochs": 50,
            },
        },
        # how long the search may take is ours: how long the published one took is not known
        "imagenet": {
            "darts": {
                **EVALUATION_PRESETS["imagenet"]["darts"],
                "matrix": "uniform",
                "code_learning_rate": 6e-4,
                "search_epochs": 100,
            }
        },
        "smoothed": {"": SMOOTHED, "darts": SMOOTHED_DARTS, "nasbench201": SMOOTHED_201},
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        # all but the candidates' norms: those are released when their node is frozen
        train_affine(self.network, True)
        for cell in self.network.cells:
            train_affine(cell.nodes, False)
        self.task.prepare(self.network, self.options.regularization)
        self.searched: int | None = None  # epochs of search, known when it has ended
        self.held_out = self.task.validation_feed(self.data, self.options.optimizer, self.device)

    def feeds(self) -> tuple[Feed, None]:
        feed = self.task.training_feed(
            self.data,
            self.options.optimizer,
            seed=self.seed,
            stream="one-stage",
            device=self.device,
            regularization=self.options.regularization,
        )
        return feed, None

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {**super().option_parts(task), "regularization": task.regularization_options}

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of a search for one half of the epochs, and training for the other."""
        return {"search_epochs": epochs // 2, "epochs": epochs - epochs // 2}

    @classmethod
    def network_changes(cls, setting: Setting) -> dict[str, Any]:
        return setting.task.network_needs(setting.options.regularization)

    @classmethod
    def limits_of(cls, setting: Setting) -> Limits:
        return Limits(setting, cls.shape(setting))

    def trained_network(self) -> CellNetwork:
        """Return the network of the present architecture with its trained weights, folded."""
        return fold(self.network, self.code.coefficients())

    def network_results(self) -> dict[str, Any]:
        return {"search_epochs": self.searched, "folding_error": broadcast(self.folding_error)}

    @torch.no_grad()
    def folding_error(self) -> float:
        """Return the largest difference of the super-net's and the folded network's outputs on a batch.

        Relative to the largest output, in evaluation mode; the networks are left as they are.
        """
        batch = next(iter(self.train_feed.epoch(0)))
        folded = self.trained_network().eval()
        training = self.network.training
        expected = self.task.outputs(self.network.eval(), batch, self.code.coefficients())
        self.network.train(training)
        difference = (self.task.outputs(folded, batch) - expected).abs().max()
        return float(difference / expected.abs().max())

    @property
    def searching(self) -> bool:
        """Whether a node is not frozen yet."""
        return self.searched is None

    @property
    def search_epochs(self) -> int:
        return self.options.method.search_epochs

    @property
    def epochs(self) -> int:
        options = self.options
        searched = options.method.search_epochs if self.searched is None else self.searched
        return searched + options.optimizer.epochs

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        return (batch for batch, _ in super().batches(epoch, start))

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        done = None
        if self.searched is not None:
            done = (self.epoch - self.searched) / self.options.optimizer.epochs
        self.weights.set_learning_rate(done or 0.0, self.epoch, batch)
        scored = self.scored and self.searching
        if scored and not (self.warming_up or self.by_steps):
            self.score_code(batch)
        coefficients = self.path() if scored else self.code.coefficients()
        names = ("drop path", "one-stage", self.epoch, self.step)
        random = generator(self.seed, *names, device=self.device)
        extra = self.task.regularize(
            self.network, batch, self.options.regularization, done, coefficients, random
        )
        loss, metrics = self.weights.loss(batch, coefficients, **extra)
        if self.searching and not scored:
            loss = loss + self.penalty(coefficients)
        loss.backward()
        self.weights.update()
        if scored and self.by_steps:
            self.score_step(metrics["loss"])
        elif self.searching and not scored:
            self.code_optimizer.step()
            self.code_optimizer.zero_grad(set_to_none=True)
        return named("train", metrics)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        if not self.searching:
            feed = self.held_out
            found = self.task.validated(self.trained_network(), feed) if feed else {}
            return {"phase": "training", **found}
        before = [z.clone() for z in self.code.z]
        recovery, refused = self.recover()
        if not refused and not self.warming_up:
            for i, node in enumerate(recovery):
                if not self.code.frozen[i] and self._settled(node, self.code.z[i] - before[i]):
                    self._freeze(i)
            self._accept()
        if self.epoch + 1 == self.search_epochs:
            for i in range(len(recovery)):
                self._freeze(i)
        if all(self.code.frozen):
            self.searched = self.epoch + 1
            self.weights.compile()
        run.write_recovery(recovery, self.code.frozen, refused)
        return {
            "phase": "search",
            "genotype": str(self.genotype()),
            "supports_changed": changed_nodes(recovery, refused),
            "frozen": sum(self.code.frozen),
        }

    def _settled(self, node: NodeRecovery, cut: Tensor) -> bool:
        """Return whether a node has stopped moving; `cut` is the movement of its cut z.

        A tiny z has not begun to move, whatever the threshold says.
        """
        options = self.options.method
        threshold = options.freeze_threshold
        moved = node.moved if options.freeze_by == "solution" else float(cut.norm())
        return moved <= threshold and node.norm >= options.freeze_floor * threshold

    def _freeze(self, i: int) -> None:
        # by the score all coefficients are 1
        self.code.freeze(i, 1.0 if self.scored else None)
        self._release(i)

    def _release(self, i: int) -> None:
        """Let the batch norms of a frozen node's operations be trained."""
        choice = self.code.choices[i]
        places = [choice.candidates[k] for k in self.code.support[i]]
        train_affine(self.network.operations_at(choice.kind, places), True)

    def describe(self, metrics: dict[str, Any]) -> str:
        text = super().describe(metrics)
        if metrics["phase"] == "search":
            frozen = f"{metrics['frozen']}/{len(self.code.choices)}"
            text += f"  frozen {frozen}  supports changed: {metrics['supports_changed']}"
        return text

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "searched": self.searched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.searched = state["searched"]
        if not self.searching:
            self.weights.compile()
        for i, frozen in enumerate(self.code.frozen):
            if frozen:
                self._release(i)
