"""HM-NAS: train a super-net jointly with its architecture weights, prune it by learnt masks, fine-tune what is left.

Reference: Yan et al., "HM-NAS: Efficient Neural Architecture Search via Hierarchical Masking", arXiv 1909.00122 (ICCV
2019 Neural Architects workshop). There is no public code: this is a reconstruction.

From the paper: weights of edges (beta) besides weights of operations (alpha); masks on edges, operations and weights,
which are learnt after the joint training of alpha, beta and weights and correct its bias; any number of edges for a
node and of operations for an edge; the found sub-network goes on with its weights.

Reconstructed: the two softmaxes and their product; the joint training on all the training data in one backward pass;
that masks are binarised by a threshold with straight-through gradients while all else is fixed, with the constants of
Piggyback (Mallya et al., ECCV 2018); that a node which loses everything keeps its strongest place; all shares of the
epochs and learning rates, which follow DARTS where it has such a constant; fine-tuning in the super-net's own depth and
width, with no drop path and no auxiliary head. For spaces with one operation per edge see `HierarchicalCode.survivors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from ..codes.hierarchical import HierarchicalCode, WeightMasks, operation_weights
from ..networks.core import CellNetwork
from ..networks.folding import fold
from ..runs.directory import Run
from ..runs.options import RunOptions
from ..runs.training import Weights, code_optimizer, hits, send
from ..runtime.errors import UserError
from ..runtime.processes import averaging
from ..spaces.genotype import Genotype
from ..tasks.images import Batches, Dataset
from .base import Batch, SupernetSearch

Phase = Literal["joint", "masks", "fine-tuning"]
"""What HM-NAS does in turn."""


@dataclass(frozen=True)
class HmNasOptions(RunOptions):
    """Options of HM-NAS.

    Parameters
    ----------
    epochs : int
        Of the three phases together: joint training, masks, fine-tuning; at least one of each.
    joint_share : float
        Share of the epochs in which weights and architecture weights are trained jointly.
    mask_share : float
        Share of the epochs in which the masks are learnt; what is left is for fine-tuning.
    init_scale : float
        Standard deviation of the initial architecture weights.
    code_learning_rate : float
        Of the architecture weights alpha and beta (Adam).
    code_weight_decay : float
        Of the architecture weights alpha and beta.
    mask_init : float
        Initial value of the real-valued masks.
    mask_threshold : float
        A mask is on above this.
    mask_learning_rate : float
        Of the masks (Adam).
    fine_tuning_learning_rate : float
        Of the found network's weights (SGD); it falls to 0 along a half cosine.
    cutout : int or None
        Side in pixels of the square cut out of images when fine-tuning; by default the data set's (16 for CIFAR).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        # joint training as DARTS's search, 50 epochs; masks as Piggyback's, 30 epochs; the rest is ours
        "paper": {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "epochs": 250,
            "joint_share": 0.2,
            "mask_share": 0.12,
            "learning_rate": 0.025,
            "code_learning_rate": 3e-4,
            "mask_learning_rate": 1e-4,
        },
    }
    least: ClassVar[dict[str, float]] = {
        "init_scale": 0,
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "mask_threshold": 0,
        "mask_learning_rate": 0,
        "fine_tuning_learning_rate": 0,
        "cutout": 0,
    }
    above_zero: ClassVar[tuple[str, ...]] = ("joint_share", "mask_share")

    min_learning_rate: float = 0.001
    joint_share: float = 0.4
    mask_share: float = 0.2
    init_scale: float = 1e-3
    code_learning_rate: float = 3e-3
    code_weight_decay: float = 1e-3
    mask_init: float = 1e-2
    mask_threshold: float = 5e-3
    mask_learning_rate: float = 1e-3
    fine_tuning_learning_rate: float = 0.025
    cutout: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 3:
            raise UserError(f"epochs must be at least 3, one of each phase, got {self.epochs}")
        if self.joint_share + self.mask_share >= 1:
            raise UserError(
                f"joint_share + mask_share must be below 1, to leave epochs for fine-tuning, got "
                f"{self.joint_share} + {self.mask_share}"
            )
        if self.mask_init <= self.mask_threshold:
            raise UserError(
                f"mask_init must be above mask_threshold, {self.mask_threshold}, so that all masks "
                f"are on at first; got {self.mask_init}"
            )

    def phase_ends(self) -> tuple[int, int]:
        """Return the epochs at which joint training and mask learning end; every phase has one at least."""
        joint = min(max(round(self.joint_share * self.epochs), 1), self.epochs - 2)
        masks = min(max(round(self.mask_share * self.epochs), 1), self.epochs - joint - 1)
        return joint, joint + masks


class HmNasSearch(SupernetSearch):
    """HM-NAS in three phases, all of them on all the training data.

    1. *joint*: weights (SGD, a half cosine over the phase), alpha and beta (Adam) follow the same loss in the same
       backward pass. All places run.
    2. *masks*: all these are fixed, and the masks of edges, operations and weights are learnt (Adam). All places run,
       for a place that is masked out may come back; batch norms go on gathering statistics.
    3. *fine-tuning*: the survivors are folded into the discrete network, which alone is trained then (SGD, a half
       cosine of its own), its batch norms, too. Masked weights stay exactly zero; they are still stored and multiplied
       with, so counts of parameters and multiply-adds include them.

    Parameters
    ----------
    supernet : CellNetwork
        Built with ``closing_norm="all"``.
    options : HmNasOptions
    dataset, device
        See `SupernetSearch`.

    Attributes
    ----------
    supernet : CellNetwork
        The super-net: it stays to score architectures by its weights (unmasked ones until the masks are learnt; those
        masked out are zero after that), and so takes up memory to the end.
    network : CellNetwork
        The super-net; in the last phase the discrete network.
    code : HierarchicalCode
    phase : {"joint", "masks", "fine-tuning"}
    phase_ends : tuple of int
        The epochs at which the first two phases end. When a run is resumed with more epochs, these stay.
    surviving_weights : float
        Share of the found network's operation weights that are not masked out, 0 to 1; 1 before there is such a
        network.
    """

    title = "HM-NAS"

    def __init__(
        self, supernet: CellNetwork, options: HmNasOptions, dataset: Dataset, device: torch.device
    ) -> None:
        super().__init__(supernet, options, dataset, device)
        self.supernet = self.network
        self.phase: Phase = "joint"
        self.phase_ends = options.phase_ends()
        self.surviving_weights = 1.0
        self.code = HierarchicalCode(
            self.space,
            init_scale=options.init_scale,
            mask_init=options.mask_init,
            mask_threshold=options.mask_threshold,
            seed=options.seed,
        ).to(device)
        self.code_optimizer = code_optimizer([self.code.alpha, self.code.beta], options)
        self.weight_masks: WeightMasks | None = None
        self.mask_optimizer: torch.optim.Adam | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []  # weights and which of them are not masked out
        self.train_batches, self.fine_tuning_batches = (
            Batches(
                dataset,
                batch_size=options.batch_size,
                seed=options.seed,
                stream=stream,
                augment=dataset.augmentation(cutout),
                device=device,
            )
            for stream, cutout in (("hm-nas search", 0), ("hm-nas fine-tuning", options.cutout))
        )

    @staticmethod
    def network_changes(options: RunOptions) -> dict[str, Any]:
        return {"closing_norm": "all"}  # folding needs it

    def genotype(self) -> Genotype:
        """Return the architecture of the places that survive now: all of them until masks are learnt."""
        return self.code.genotype()

    def trained_network(self) -> CellNetwork | None:
        """Return the found network with its weights; None before fine-tuning."""
        return self.network if self.phase == "fine-tuning" else None

    @property
    def steps(self) -> int:
        return len(self.train_batches)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield (images, labels) of all the training data."""
        tuning = epoch >= self.phase_ends[1]
        return (self.fine_tuning_batches if tuning else self.train_batches).epoch(epoch, start)

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        x, y = batch
        joint_end, masks_end = self.phase_ends
        if self.phase == "joint":
            self.weights.set_learning_rate(self.epoch / joint_end, self.epoch)
            loss, logits = self.weights.loss(x, y, self.code.coefficients())
            loss.backward()
            self.weights.update()
            self.code_optimizer.step()
            self.code_optimizer.zero_grad(set_to_none=True)
        elif self.phase == "masks":
            inputs = (x, self.code.masked_coefficients())
            with self.weights.precision(x.device):
                logits = functional_call(self.supernet, self.weight_masks(), inputs)
            loss = self.weights.cross_entropy(logits, y)
            loss.backward()
            self.mask_optimizer.step()
            self.mask_optimizer.zero_grad(set_to_none=True)
        else:
            done = (self.epoch - masks_end) / (self.epochs - masks_end)
            self.weights.set_learning_rate(done, self.epoch)
            loss, logits = self.weights.loss(x, y)
            loss.backward()
            for weight, kept in self._kept:
                if weight.grad is not None:
                    # before clipping; with no gradient there is no momentum, and no decay of a zero
                    weight.grad.mul_(kept)
            self.weights.update()
        return {"train_loss": loss.detach(), "train_accuracy": hits(logits, y)}

    def end_epoch(self, run: Run) -> dict[str, Any]:
        metrics: dict[str, Any] = {"phase": self.phase}
        if self.epoch + 1 == self.phase_ends[0]:
            self._begin_masks()
        elif self.epoch + 1 == self.phase_ends[1]:
            self.weight_masks.apply_to_weights()
            self._begin_fine_tuning()
        survivors = self.code.survivors()
        return {
            **metrics,
            "genotype": str(Genotype.from_places(survivors, self.space)),
            "places": sum(map(len, survivors.values())),
            "surviving_weights": self.surviving_weights,
        }

    def _begin_masks(self) -> None:
        self.phase = "masks"
        self.supernet.requires_grad_(False)
        self.weights.optimizer.state.clear()  # its momentum serves no more
        options = self.options
        self.weight_masks = WeightMasks(
            self.supernet, mask_init=options.mask_init, mask_threshold=options.mask_threshold
        )
        masks = [self.code.edge_mask, self.code.operation_mask, self.weight_masks.mask]
        self.mask_optimizer = torch.optim.Adam(masks, lr=options.mask_learning_rate)
        averaging(self.mask_optimizer)

    def _begin_fine_tuning(self) -> None:
        """Go on with the survivors, with weights that are zero in the super-net held there."""
        self.phase = "fine-tuning"
        self.supernet.requires_grad_(False)
        self.weight_masks = self.mask_optimizer = None
        found = fold(self.supernet, self.code.coefficients_at(self.code.survivors()))
        self.network = send(found, self.device).train()
        options = replace(
            self.options,
            learning_rate=self.options.fine_tuning_learning_rate,
            min_learning_rate=0.0,
        )
        self.weights = Weights(self.network, options)
        before = operation_weights(self.supernet)
        self._kept = [
            (weight, before[name] != 0) for name, weight in operation_weights(self.network).items()
        ]
        total = sum(kept.numel() for _, kept in self._kept)
        on = sum(kept.sum() for _, kept in self._kept)
        self.surviving_weights = float(on) / total if total else 1.0

    def describe(self, metrics: dict[str, Any]) -> str:
        text = f"{super().describe(metrics)}  {metrics['phase']}"
        if metrics["phase"] != "joint":
            text += f"  places {metrics['places']}"
        if self.phase == "fine-tuning":
            text += f"  weights kept {100 * self.surviving_weights:.1f} %"
        return text

    def stateful(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"supernet": self.supernet, "code": self.code}
        if self.phase == "joint":
            return {
                **parts,
                "optimizer": self.weights.optimizer,
                "code_optimizer": self.code_optimizer,
            }
        if self.phase == "masks":
            return {
                **parts,
                "weight_masks": self.weight_masks,
                "mask_optimizer": self.mask_optimizer,
            }
        return {**parts, **self.weights.stateful()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "phase": self.phase, "phase_ends": list(self.phase_ends)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in a search that has just been made."""
        joint_end, masks_end = state["phase_ends"]
        self.phase_ends = (joint_end, masks_end)
        if state["phase"] == "masks":
            self._begin_masks()
        elif state["phase"] == "fine-tuning":
            # which places and weights there are follows from these
            self.supernet.load_state_dict(state["supernet"])
            self.code.load_state_dict(state["code"])
            self._begin_fine_tuning()
        super().load_state_dict(state)
