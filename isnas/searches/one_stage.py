"""One-stage training (ISTA-NAS, algorithm 2): search inside the target network, then train it on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..codes.sparse import NodeRecovery, SparseCode
from ..networks.core import CellNetwork, Coefficients, train_affine
from ..networks.counting import PlaceCosts
from ..networks.folding import fold
from ..runs.directory import Run
from ..runs.loop import Stage
from ..runs.options import TrainOptions
from ..runs.training import Weights, code_optimizer, hits, send
from ..runtime.errors import UserError
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.images import Batches, Dataset
from .base import ones
from .two_stage import changed_nodes

DRAWS = 10_000
"""Codes that are drawn at most to find a first architecture within the size limit."""


class OneStageTraining(Stage):
    """Search and training in one run, in the target network, on all the training data.

    While searching, weights and codes follow the same loss in the same backward pass, at the full learning rate. After
    every epoch z is recovered; a node that has settled is frozen: its coefficients stay, and its operations' batch
    norms become trainable. When all are frozen the normal schedule of `options.epochs` begins.
    """

    title = "one-stage training"

    def __init__(
        self,
        supernet: CellNetwork,
        options: TrainOptions,
        dataset: Dataset,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.options = options
        self.device = device
        self.space = supernet.space
        self.network = send(supernet, device)
        self.sizes = PlaceCosts(self.network)
        for cell in self.network.cells:
            train_affine(cell.nodes, False)
        self.code = self._first_code().to(device)
        self.weights = Weights(self.network, options)
        self.code_optimizer = code_optimizer(self.code.parameters(), options)
        self.searched: int | None = None  # epochs of search, known when it has ended
        self._accept()
        self.train_batches = Batches(
            dataset,
            batch_size=options.batch_size,
            seed=options.seed,
            stream="one-stage",
            augment=True,
            cutout=options.cutout,
            device=device,
        )

    def _first_code(self) -> SparseCode:
        limit, least = (
            self.options.size_limit,
            self.sizes.least(self.options.per_node("s", self.space)),
        )
        if limit is not None and limit < least:
            raise UserError(
                f"size_limit must be at least {least}, the parameters of the smallest architecture "
                f"of this depth and width; got {limit}"
            )
        for draw in range(DRAWS):
            code = SparseCode(self.space, self.options, seed=self.options.seed, draw=draw)
            if self._small_enough(code):
                return code
        raise UserError(
            f"size_limit {limit}: none of {DRAWS} random architectures of this depth and width is "
            f"that small"
        )

    def _small_enough(self, code: SparseCode) -> bool:
        limit = self.options.size_limit
        return limit is None or self.sizes.parameters(code.places) <= limit

    def _accept(self) -> None:
        """Remember the codes as they are, to come back to when a later architecture is too large."""
        self._accepted = None
        if self.options.size_limit is not None:
            state = {"code": self.code.state_dict(), "adam": self.code_optimizer.state_dict()}
            self._accepted = copy.deepcopy(state)

    @staticmethod
    def network_changes(options: TrainOptions) -> dict[str, Any]:
        """Return how the super-net's options differ from those of a network that is trained."""
        return {"closing_norm": "all", "auxiliary": options.auxiliary_weight > 0}

    @staticmethod
    def supernet_space(space: Space, options: TrainOptions) -> Space:
        """Return the super-net's space: the space itself."""
        return space

    def genotype(self) -> Genotype:
        """Return the architecture that the search holds now."""
        return self.code.genotype()

    def alone(self, genotype: Genotype) -> dict[str, Coefficients]:
        """Return the coefficients that run a genotype alone, see `isnas.searches.base.ones`."""
        return ones(genotype, self.network, self.device)

    def trained_network(self) -> CellNetwork:
        """Return the network of the present architecture with its trained weights, folded."""
        return fold(self.network, self.code.coefficients())

    @property
    def searching(self) -> bool:
        """Whether a node is not frozen yet."""
        return self.searched is None

    @property
    def epochs(self) -> int:
        searched = self.options.search_epochs if self.searched is None else self.searched
        return searched + self.options.epochs

    @property
    def steps(self) -> int:
        return len(self.train_batches)

    def begin(self, run: Run) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.train_batches.epoch(epoch, start)

    def train_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        done = 0.0 if self.searched is None else (self.epoch - self.searched) / self.options.epochs
        self.weights.set_learning_rate(done, self.epoch)
        coefficients = self.code.coefficients()
        kept = None
        if self.options.drop_path > 0 and not self.searching:
            rate = self.options.drop_path * done
            kept = self.weights.kept(rate, x, coefficients, "one-stage", self.epoch, self.step)
        loss, logits = self.weights.loss(x, y, coefficients, self.options.auxiliary_weight, kept)
        loss.backward()
        self.weights.update()
        if self.searching:
            self.code_optimizer.step()
            self.code_optimizer.zero_grad(set_to_none=True)
        return {"train_loss": loss.detach(), "train_accuracy": hits(logits, y)}

    def end_epoch(self, run: Run) -> dict[str, Any]:
        if not self.searching:
            return {"phase": "training"}
        recovery = self.code.recover()
        refused = not self._small_enough(self.code)
        if refused:
            # copies: an optimizer goes on with the very tensors that it is given
            accepted = copy.deepcopy(self._accepted)
            self.code.load_state_dict(accepted["code"])
            self.code_optimizer.load_state_dict(accepted["adam"])
        else:
            for i, node in enumerate(recovery):
                if not self.code.frozen[i] and self._settled(node):
                    self._freeze(i)
            self._accept()
        if self.epoch + 1 == self.options.search_epochs:
            for i in range(len(recovery)):
                self._freeze(i)
        if all(self.code.frozen):
            self.searched = self.epoch + 1
            self.weights.compile()
        run.write_recovery(recovery, self.code.frozen, refused)
        return {
            "phase": "search",
            "genotype": str(self.genotype()),
            "supports_changed": "refused: too large" if refused else changed_nodes(recovery),
            "frozen": sum(self.code.frozen),
        }

    def _settled(self, node: NodeRecovery) -> bool:
        """Whether a node has stopped moving. A tiny z has not begun to, whatever the threshold says."""
        threshold = self.options.freeze_threshold
        return node.moved <= threshold and node.norm >= self.options.freeze_floor * threshold

    def _freeze(self, i: int) -> None:
        self.code.freeze(i)
        self._release(i)

    def _release(self, i: int) -> None:
        """Let the batch norms of a frozen node's operations be trained."""
        kind, node = self.code.nodes[i]
        places = [place for place in self.code.places[kind] if place.node == node]
        train_affine(self.network.operations_at(kind, places), True)

    def describe(self, metrics: dict[str, Any]) -> str:
        text = super().describe(metrics)
        if metrics["phase"] == "search":
            frozen = f"{metrics['frozen']}/{len(self.code.nodes)}"
            text += f"  frozen {frozen}  supports changed: {metrics['supports_changed']}"
        return text

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**self.weights.stateful(), **parts}

    def state_dict(self) -> dict[str, Any]:
        own = {"searched": self.searched, "accepted": self._accepted}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.searched = state["searched"]
        if not self.searching:
            self.weights.compile()
        self._accepted = copy.deepcopy(state["accepted"])
        for i, frozen in enumerate(self.code.frozen):
            if frozen:
                self._release(i)
