"""Random search with weight sharing (Li & Talwalkar, UAI 2019, arXiv 1902.07638).

Random architectures train the super-net's weights, one in each step; then the weights rank other random ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
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
        The best of them that are scored again, on all images of the second half; 0: none.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "epochs": 100,
            "learning_rate": 0.025,
            "clip": 0.25,
            "candidates": 3000,
            "validation_images": 640,
            "finalists": 30,
        },
    }
    least: ClassVar[dict[str, float]] = {"candidates": 1, "finalists": 0}

    min_learning_rate: float = 0.001
    candidates: int = 50
    finalists: int = 0


class RandomSharingSearch(PathSearch):
    """Search of a genotype by a super-net that random architectures train."""

    title = "random search with weight sharing"
    options: RandomSharingOptions

    def path(self) -> Genotype:
        random = generator(self.options.seed, "random path", self.epoch, self.step)
        return self.choices.random(random)

    def score_candidates(self) -> None:
        """Score the candidates, and of the finalists, if any, once more: then only they are in `scores`."""
        options = self.options
        random = generator(options.seed, "candidates")
        drawn = dict.fromkeys(self.choices.random(random) for _ in range(options.candidates))
        images = list(self.validation(options.validation_images).epoch(0))
        scores = {genotype: self.score(genotype, images) for genotype in drawn}
        if options.finalists:
            best = sorted(scores, key=lambda genotype: -scores[genotype])[: options.finalists]
            everything = self.validation()
            scores = {genotype: self.score(genotype, everything.epoch(0)) for genotype in best}
        self.scores.clear()
        self.scores.update(scores)
