"""ENAS (Pham et al., ICML 2018, arXiv 1802.03268): a recurrent controller learns to sample a super-net's architectures.

The constants were checked against the authors' code, melodyguan/enas: ``scripts/cifar10_micro_search.sh`` and
``src/cifar10/main.py``, ``micro_controller.py``, ``micro_child.py``; for whole networks ``cifar10_macro_search.sh``,
``general_controller.py`` and ``general_child.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch

from ..codes.controller import Reinforce, Sample, controller
from ..networks.core import CellNetwork, train_affine
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
from ..spaces.macro import SKIP_SHARE
from .base import RECURRENT, RECURRENT_PAPER, Setting
from .path_search import PathOptions, PathSearch

BETAS, EPSILON = (0.0, 0.999), 1e-3
"""Constants of Adam for the controller: those of the published code (``src/utils.py``), not of the paper's text."""


@dataclass(frozen=True)
class EnasOptions(PathOptions):
    """Options of ENAS.

    In the preset `quick` the controller's phase takes about as long as that of the weights, so it has few steps: at ten
    times the published rate, with a baseline that follows ten times as fast.

    The preset `paper` has the published constants of the search for cells; the weight decay is twice the code's
    factor, which multiplies the sum of squares without a half. Differences: our operations and number of nodes; our
    halves (the code keeps 45,000 images for the weights and 5,000 for the controller); one cosine, without restarts;
    no dropout, drop path or auxiliary head in the search; a node's operations stand at different places; a cell's
    output is the concatenation of all nodes, where the code concatenates the nodes that no other reads and brings them
    to the cell's channels by a 1x1 convolution. Those of the controller itself: see `isnas.codes.controller`. For whole
    networks (the space macro) it has the constants of the macro search, with the same differences.

    In NAS-Bench-201 the preset has the constants of the benchmark's search by ENAS (Dong & Yang, ICLR 2020).
    Differences: its cosine goes up and down, with a period of 20 epochs; its baseline moves once an epoch, and in the
    first epoch is the reward itself; its images are cropped and mirrored for the rewards, too, and its super-net then
    is in evaluation mode; each final sample sees a batch of its own.

    Parameters
    ----------
    controller_steps : int
        REINFORCE steps of the controller after each epoch.
    samples : int
        Architectures in such a step; each is rewarded with its value on a batch of its own, see `Task.reward`.
    final_samples : int
        Architectures that are sampled and scored in the end; one sampled twice is scored once.
    controller_learning_rate : float
        Learning rate of the controller (Adam).
    baseline_decay : float
        Decay of the moving average of rewards, which is subtracted from them.
    entropy_weight : float
        Weight of the policy's entropy beside the reward.
    controller_hidden : int
        Units of the LSTM.
    temperature : float
        The controller's logits are divided by it.
    tanh_constant : float
        Bound of the logits, by a tanh.
    op_tanh_reduce : float
        How many times smaller the bound is for operations.
    skip_target : float
        Probability of a skip that the controller is drawn towards, where a space has skips to decide on.
    skip_weight : float
        Weight of the divergence from it in the controller's loss.
    affine : bool
        Whether the candidates' batch norms have an affine part that is trained, as in the published code.
    """

    least: ClassVar[dict[str, float]] = {
        "controller_steps": 1,
        "samples": 1,
        "final_samples": 1,
        "controller_learning_rate": 0,
        "baseline_decay": 0,
        "entropy_weight": 0,
        "controller_hidden": 1,
        "skip_weight": 0,
    }
    below_one: ClassVar[tuple[str, ...]] = ("baseline_decay", "skip_target")
    above_zero: ClassVar[tuple[str, ...]] = (
        "temperature",
        "tanh_constant",
        "op_tanh_reduce",
        "skip_target",
    )

    controller_steps: int = 4
    samples: int = 4
    final_samples: int = 20
    controller_learning_rate: float = 3.5e-2
    baseline_decay: float = 0.9
    entropy_weight: float = 1e-4
    controller_hidden: int = 64
    temperature: float = 1.0
    tanh_constant: float = 1.1
    op_tanh_reduce: float = 2.5
    skip_target: float = SKIP_SHARE
    skip_weight: float = 0.8
    affine: bool = False


class EnasSearch(PathSearch):
    """Search of a genotype by a controller and a super-net that learn in turn.

    In every step an architecture sampled from the controller trains the weights on a batch of the first half. After
    every epoch the controller takes REINFORCE steps; the reward is the value of a sampled architecture with the
    shared weights, which rest, on a batch of the second half, unvaried.

    Attributes
    ----------
    controller : Controller
        On the CPU: its steps are too small for anything else.
    reinforce : Reinforce
    reward_feed : Feed
    """

    title = "ENAS"
    method_options = EnasOptions
    # an architecture's perplexity on few words says little
    defaults_in: ClassVar = {"recurrent": {**RECURRENT, "validation_amount": 3_500}}
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 20,
                "cells": 8,
                "batch_size": 160,
                "epochs": 150,
                "min_learning_rate": 0.0005,
                "nesterov": True,
                "weight_decay": 2e-4,
                "controller_steps": 30,
                "samples": 10,
                "final_samples": 10,
                "validation_amount": 160,
                "controller_learning_rate": 3.5e-3,
                "baseline_decay": 0.99,
                "affine": True,
            },
            "nasbench201": {
                "data": "cifar10",
                "channels": 16,
                "cells": 5,
                "batch_size": 128,
                "epochs": 250,
                "min_learning_rate": 0.0005,
                "nesterov": True,
                "weight_decay": 2.5e-4,
                "controller_steps": 50,
                "samples": 20,
                "final_samples": 100,
                "validation_amount": 128,
                "controller_learning_rate": 1e-3,
                "baseline_decay": 0.99,
            },
            "macro": {
                "data": "cifar10",
                "channels": 36,
                "batch_size": 128,
                "epochs": 310,
                "min_learning_rate": 0.0005,
                "weight_decay": 5e-4,
                "controller_steps": 50,
                "samples": 20,
                "final_samples": 10,
                "validation_amount": 128,
                "controller_learning_rate": 1e-3,
                "baseline_decay": 0.99,
                "tanh_constant": 1.5,
                "op_tanh_reduce": 1.0,
            },
            # of its corrected language model (google-research, enas_lm), with our controller; a reward of one piece
            "recurrent": {
                **RECURRENT_PAPER,
                "width": 200,
                "matrices": "place",
                "dropout_words": 0.1,
                "batch_size": 128,
                "epochs": 600,
                "clip": 0.1,
                "weight_decay": 1.6e-6,
                "slowness_penalty": 1.0,
                "controller_steps": 25,
                "samples": 10,
                "final_samples": 100,
                "validation_amount": 12_800,
                "controller_learning_rate": 5e-5,
                "baseline_decay": 0.999,
                "entropy_weight": 1e-5,
                "temperature": 5.0,
                "tanh_constant": 2.25,
                "op_tanh_reduce": 1.0,
            },
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        options = self.options.method
        train_affine(self.network.cells, options.affine)
        self.controller = controller(
            self.choices,
            hidden=options.controller_hidden,
            temperature=options.temperature,
            tanh_constant=options.tanh_constant,
            op_tanh_reduce=options.op_tanh_reduce,
            seed=self.seed,
            skip_target=options.skip_target,
        )
        self.reinforce = Reinforce(
            self.controller,
            learning_rate=options.controller_learning_rate,
            entropy_weight=options.entropy_weight,
            decay=options.baseline_decay,
            start="zero",
            betas=BETAS,
            epsilon=EPSILON,
            skip_weight=options.skip_weight,
        )
        # limits that nothing can keep show now
        self.limits.nearest(self.choices.random(generator(self.seed, "limits")))
        self.reward_feed = self.task.code_feed(
            self.data,
            self.options.optimizer,
            seed=self.seed,
            stream="rewards",
            device=self.device,
            vary=False,
        )

    def sample(self, *names: str | int) -> Sample:
        """Sample an architecture from the controller; `names` say which."""
        return self.controller.sample(generator(self.seed, *names))

    @torch.no_grad()
    def path(self) -> Genotype:
        return self.choices.genotype(self.sample("controller path", self.epoch, self.step).chosen)

    def rewarding(self) -> Iterator[Any]:
        """Yield the batches of this epoch's rewards: they go on through the second half where the last ended."""
        options = self.options.method
        first = self.epoch * options.controller_steps * options.samples
        turn, start = divmod(first, len(self.reward_feed))
        yield from self.reward_feed.epoch(turn, start)
        for later in itertools.count(turn + 1):
            yield from self.reward_feed.epoch(later)

    def train_controller(self) -> dict[str, float]:
        """Take the controller's steps of an epoch and return means over its samples."""
        batches = self.rewarding()
        options = self.options.method
        rewards: list[float] = []
        entropies: list[float] = []
        for step in range(options.controller_steps):
            samples = [
                self.sample("controller sample", self.epoch, step, i)
                for i in range(options.samples)
            ]
            found = [
                self._reward(self.choices.genotype(sample.chosen), next(batches))
                for sample in samples
            ]
            self.reinforce.step(samples, found)
            rewards += found
            entropies += [float(sample.entropy.detach()) for sample in samples]
        return {"reward": fmean(rewards), "entropy": fmean(entropies)}

    def _reward(self, genotype: Genotype, batch: Any) -> float:
        """Return the reward of an architecture; nothing for one beyond the limits."""
        if not self.limits.allow(genotype):
            return 0.0
        return self.task.reward(self.score(genotype, [batch]))

    def score_candidates(self) -> None:
        """Sample the last architectures and score them; of those beyond the limits what is nearest within."""
        batches = list(self.validation(self.options.method.validation_amount).epoch(0))
        self.scores.clear()
        for i in range(self.options.method.final_samples):
            with torch.no_grad():
                genotype = self.choices.genotype(self.sample("final sample", i).chosen)
            genotype = self.limits.nearest(genotype)
            if genotype not in self.scores:
                self.scores[genotype] = self.score(genotype, batches)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        return {**self.train_controller(), **super().end_epoch(run)}

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  reward {metrics['reward']:.3f}"

    def stateful(self) -> dict[str, Any]:
        # with the controller's weights
        return {**super().stateful(), "reinforce": self.reinforce}
