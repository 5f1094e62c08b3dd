"""Random search with weight sharing (Li & Talwalkar, UAI 2019, arXiv 1902.07638).

Random architectures train the super-net's weights, one in each step; then the weights rank other random ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..networks.core import CellNetwork
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
from .base import RECURRENT, Setting
from .limits import choices_within
from .path_search import PathOptions, PathSearch


@dataclass(frozen=True)
class RandomSharingOptions(PathOptions):
    """Options of random search with weight sharing.

    The preset `paper` has the constants of the authors' released code (``random_weight_share.py`` of
    liamcli/randomNAS_release and its CIFAR-10 benchmark): 100 epochs make three rounds of 1,000 candidates, each scored
    on ten batches; the best ten of a round are scored on the whole validation half. Which of several settings (another
    clipping, 24 channels, more epochs) gave the published 2.85 % is not verified. Differences: one round of 3,000 with
    30 finalists; all candidates see the same ten batches, and batch norm takes their statistics; the code draws two
    different sources for a node, we draw two different places.

    Parameters
    ----------
    candidates : int
        Random architectures that are ranked in the end; one drawn twice is scored once.
    finalists : int
        The best of them that are scored again, on all the data to choose by; 0: none.
    """

    least: ClassVar[dict[str, float]] = {"candidates": 1, "finalists": 0}

    candidates: int = 50
    finalists: int = 0


class RandomSharingSearch(PathSearch):
    """Search of a genotype by a super-net that random architectures train; all of them are within the limits."""

    title = "random search with weight sharing"
    method_options = RandomSharingOptions
    defaults_in: ClassVar = {"recurrent": {**RECURRENT, "validation_amount": 3_500}}
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "epochs": 100,
                "learning_rate": 0.025,
                "clip": 0.25,
                "candidates": 3000,
                "validation_amount": 640,
                "finalists": 30,
            },
            # the benchmark's (Dong & Yang, ICLR 2020); there each candidate sees a batch of its own
            "nasbench201": {
                "data": "cifar10",
                "channels": 16,
                "cells": 5,
                "batch_size": 64,
                "epochs": 250,
                "learning_rate": 0.025,
                "nesterov": True,
                "weight_decay": 5e-4,
                "candidates": 100,
                "validation_amount": 512,
            },
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        self.choices = choices_within(self.limits, self.options.method.s)
        self.choices.random(generator(self.seed, "limits"))  # limits that nothing can keep show now

    def path(self) -> Genotype:
        random = generator(self.seed, "random path", self.epoch, self.step)
        return self.choices.random(random)

    def score_candidates(self) -> None:
        """Score the candidates, and of the finalists, if any, once more: then only they are in `scores`."""
        options = self.options.method
        random = generator(self.seed, "candidates")
        drawn = dict.fromkeys(self.choices.random(random) for _ in range(options.candidates))
        batches = list(self.validation(options.validation_amount).epoch(0))
        scores = {genotype: self.score(genotype, batches) for genotype in drawn}
        if options.finalists:
            measure = self.task.measure
            ranked = sorted(scores, key=lambda genotype: -measure.score(scores[genotype]))
            best = ranked[: options.finalists]
            everything = self.validation()
            scores = {genotype: self.score(genotype, everything.epoch(0)) for genotype in best}
        self.scores.clear()
        self.scores.update(scores)
