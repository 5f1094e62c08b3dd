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
width, with no drop path and no auxiliary head. For spaces whose candidates are in groups see
`HierarchicalCode.survivors`.
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
from ..runs.training import WeightTrainer, carried, named, to_device
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..runtime.processes import averaging
from ..runtime.randomness import generator
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Feed, Task
from .base import Setting, SupernetSearch
from .sparse_search import code_optimizer

Phase = Literal["joint", "masks", "fine-tuning"]
"""The phases that HM-NAS goes through in turn."""


@dataclass(frozen=True)
class HmNasOptions(BaseOptions):
    """Options of HM-NAS.

    Parameters
    ----------
    joint_share : float
        Share of the epochs in which weights and architecture weights are trained jointly.
    mask_share : float
        Share of the epochs in which the masks are learnt; what is left is for fine-tuning.
    init_scale : float
        Standard deviation of the initial architecture weights.
    code_learning_rate : float
        Learning rate of the architecture weights alpha and beta (Adam).
    code_weight_decay : float
        Weight decay of the architecture weights alpha and beta.
    mask_init : float
        Initial value of the real-valued masks.
    mask_threshold : float
        A mask is on above this.
    mask_learning_rate : float
        Learning rate of the masks (Adam).
    fine_tuning_learning_rate : float
        Learning rate of the found network's weights (SGD); it falls to 0 along a half cosine.
    """

    least: ClassVar[dict[str, float]] = {
        "init_scale": 0,
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "mask_threshold": 0,
        "mask_learning_rate": 0,
        "fine_tuning_learning_rate": 0,
    }
    above_zero: ClassVar[tuple[str, ...]] = ("joint_share", "mask_share")

    joint_share: float = 0.4
    mask_share: float = 0.2
    init_scale: float = 1e-3
    code_learning_rate: float = 3e-3
    code_weight_decay: float = 1e-3
    mask_init: float = 1e-2
    mask_threshold: float = 5e-3
    mask_learning_rate: float = 1e-3
    fine_tuning_learning_rate: float = 0.025

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def phase_ends(self, epochs: int) -> tuple[int, int]:
        """Return the epochs at which joint training and mask learning end; every phase has one at least.

        Raises
        ------
        UserError
            When there are fewer than three epochs.
        """
        if epochs < 3:
            raise UserError(f"epochs must be at least 3, one of each phase, got {epochs}")
        joint = min(max(round(self.joint_share * epochs), 1), epochs - 2)
        masks = min(max(round(self.mask_share * epochs), 1), epochs - joint - 1)
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
        One that can be folded.
    setting : Setting

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
    method_options = HmNasOptions
    role = "fold"
    least_epochs = 3
    probe_epochs = 5
    presets: ClassVar = {
        # joint training as DARTS's search, 50 epochs; masks as Piggyback's, 30 epochs; the rest is ours
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "epochs": 250,
                "joint_share": 0.2,
                "mask_share": 0.12,
                "learning_rate": 0.025,
                "code_learning_rate": 3e-4,
                "mask_learning_rate": 1e-4,
            }
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        options = self.options.method
        self.supernet = self.network
        self.phase: Phase = "joint"
        self.phase_ends = options.phase_ends(self.epochs)
        self.surviving_weights = 1.0
        self.code = HierarchicalCode(
            self.space,
            init_scale=options.init_scale,
            mask_init=options.mask_init,
            mask_threshold=options.mask_threshold,
            seed=self.seed,
        ).to(self.device)
        self.genotype()  # limits that nothing can keep show now
        self.code_optimizer = code_optimizer([self.code.alpha, self.code.beta], options)
        self.weight_masks: WeightMasks | None = None
        self.mask_optimizer: torch.optim.Adam | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []  # weights and which of them are not masked out

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        if any(choice.least == choice.most for choice in space.choices):
            return "its masks leave any number of places, where the space wants a given number"
        return None

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {"regularization": task.regularization_options}

    @classmethod
    def network_changes(cls, setting: Setting) -> dict[str, Any]:
        return setting.task.network_needs(setting.options.regularization)

    def feeds(self) -> tuple[Feed, Feed]:
        """Return all the training data twice: to search with, and for fine-tuning."""
        common = {"seed": self.seed, "device": self.device}
        return (
            self.task.training_feed(
                self.data, self.options.optimizer, stream="hm-nas search", **common
            ),
            self.task.training_feed(
                self.data,
                self.options.optimizer,
                stream="hm-nas fine-tuning",
                regularization=self.options.regularization,
                **common,
            ),
        )

    def genotype(self) -> Genotype:
        """Return the architecture of the places that survive now, within the limits; of all until masks are learnt."""
        return self.limits.nearest(self.code.genotype(), self.code.coefficients(), drop=True)

    def trained_network(self) -> CellNetwork | None:
        """Return the found network with its weights; None before fine-tuning."""
        return self.network if self.phase == "fine-tuning" else None

    @property
    def steps(self) -> int:
        return len(self.train_feed)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield batches of all the training data."""
        tuning = epoch >= self.phase_ends[1]
        return (self.valid_feed if tuning else self.train_feed).epoch(epoch, start)

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        joint_end, masks_end = self.phase_ends
        if self.phase == "joint":
            self.weights.set_learning_rate(self.epoch / joint_end, self.epoch)
            loss, metrics = self.weights.loss(batch, self.code.coefficients())
            loss.backward()
            self.weights.update()
            self.code_optimizer.step()
            self.code_optimizer.zero_grad(set_to_none=True)
        elif self.phase == "masks":
            masked = self.weight_masks()

            def run(*inputs: Any, **named: Any) -> Any:
                return functional_call(self.supernet, masked, inputs, named)

            loss, metrics = self.weights.loss(batch, self.code.masked_coefficients(), run=run)
            loss.backward()
            self.mask_optimizer.step()
            self.mask_optimizer.zero_grad(set_to_none=True)
        else:
            done = (self.epoch - masks_end) / (self.epochs - masks_end)
            self.weights.set_learning_rate(done, self.epoch)
            names = ("drop path", "fine-tuning", self.epoch, self.step)
            random = generator(self.seed, *names, device=self.device)
            extra = self.task.regularize(
                self.network, batch, self.options.regularization, done, None, random
            )
            loss, metrics = self.weights.loss(batch, **extra)
            loss.backward()
            for weight, kept in self._kept:
                if weight.grad is not None:
                    # before clipping; with no gradient there is no momentum, and no decay of a zero
                    weight.grad.mul_(kept)
            self.weights.update()
        return named("train", metrics)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        metrics: dict[str, Any] = {"phase": self.phase}
        if self.epoch + 1 == self.phase_ends[0]:
            self._begin_masks()
        elif self.epoch + 1 == self.phase_ends[1]:
            self.weight_masks.apply_to_weights()
            self._begin_fine_tuning()
        genotype = self.genotype()
        return {
            **metrics,
            "genotype": str(genotype),
            "places": sum(map(len, genotype.places(self.space).values())),
            "surviving_weights": self.surviving_weights,
        }

    def _begin_masks(self) -> None:
        self.phase = "masks"
        self.supernet.requires_grad_(False)
        self.weights.optimizer.state.clear()  # its momentum serves no more
        options = self.options.method
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
        found = fold(self.supernet, self.code.coefficients_at(self.genotype().places(self.space)))
        self.network = to_device(found, self.device, self.options.runtime.layout).train()
        optimizer = replace(
            self.options.optimizer,
            learning_rate=self.options.method.fine_tuning_learning_rate,
            min_learning_rate=0.0,
        )
        self.weights = WeightTrainer(self.network, self.task, optimizer, self.options.runtime)
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
        feeds = carried(train_feed=self.train_feed, valid_feed=self.valid_feed)
        parts: dict[str, Any] = {"supernet": self.supernet, "code": self.code, **feeds}
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
