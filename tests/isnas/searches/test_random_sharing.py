"""Random search with weight sharing: uniform paths, and the last ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import chisquare

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Dataset, Genotype, UserError
from isnas.searches.random_sharing import RandomSharingOptions, RandomSharingSearch
from isnas.searches.registry import create_search, search_options
from isnas.spaces.nasbench201 import to_string


def search_of(data: Dataset, **changes: Any) -> RandomSharingSearch:
    small = {"channels": 2, "cells": 1, "batch_size": 8, "epochs": 1, "candidates": 5}
    values = {**small, "validation_amount": 8, **changes}
    return create_search("random-sharing", NASBENCH201_SPACE, data, **values)


class TestPaths:
    def test_every_edge_is_uniform_over_its_operations_and_none(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        stage = search_of(toy_data(), epochs=30)
        counts = [Counter() for _ in range(6)]
        for stage.epoch in range(30):
            for stage.step in range(50):
                edges = to_string(stage.path()).replace("+", "").strip("|").replace("||", "|")
                for count, edge in zip(counts, edges.split("|"), strict=True):
                    count[edge] += 1
        for count in counts:
            assert len(count) == 5
            assert chisquare(list(count.values())).pvalue > 1e-3


class TestRanking:
    def scored(
        self, stage: RandomSharingSearch, value: Callable[[Genotype], float]
    ) -> list[tuple[Genotype, int]]:
        """Replace the scores by these values; what was asked for and on how many images is noted."""
        asked: list[tuple[Genotype, int]] = []

        def score(genotype: Genotype, batches: Any) -> float:
            images = sum(len(y) for _, y in batches)
            asked.append((genotype, images))
            # on more images it turns out to be the other way round
            return value(genotype) if images == 8 else 1 - value(genotype)

        stage.score = score
        return asked

    def test_of_candidates(self, toy_data: Callable[..., Dataset]) -> None:
        stage = search_of(toy_data(), candidates=20)
        asked = self.scored(stage, lambda genotype: to_string(genotype).count("skip") / 6)
        stage.end_epoch(None)
        genotypes = [genotype for genotype, _ in asked]
        assert len(set(genotypes)) == len(genotypes) == len(stage.scores) == 20
        most = max(to_string(genotype).count("skip") for genotype in genotypes)
        assert to_string(stage.genotype()).count("skip") == most > 0
        # they are no architectures of the steps, which would have been drawn by the same names
        assert not set(genotypes) & {stage.path()}

    def test_of_finalists_is_on_all_images(self, toy_data: Callable[..., Dataset]) -> None:
        stage = search_of(toy_data(), candidates=20, finalists=3)
        values: dict[Genotype, float] = {}
        asked = self.scored(stage, lambda g: values.setdefault(g, 7 * len(values) % 20 / 20))
        stage.end_epoch(None)
        first, second = asked[:20], asked[20:]
        assert [images for _, images in first] == [8] * 20
        assert [images for _, images in second] == [16] * 3  # the half
        best = sorted(values, key=values.__getitem__)[-3:]
        assert {g for g, _ in second} == set(best) == set(stage.scores)
        assert stage.genotype() == best[0]

    def test_more_finalists_than_candidates(self, toy_data: Callable[..., Dataset]) -> None:
        stage = search_of(toy_data(), candidates=2, finalists=30)
        stage.end_epoch(None)
        assert len(stage.scores) == 2


class TestOptions:
    def test_paper(self) -> None:
        """The released code: 1,000 candidates for each full 10,000 of 100 * 25,000 / 64 steps, ten of them again."""
        paper = search_options("random-sharing", DARTS_SPACE, "paper")
        optimizer, method = paper.optimizer, paper.method
        rounds = optimizer.epochs * 25_000 // optimizer.batch_size // 10_000
        assert (method.candidates, method.finalists) == (1000 * rounds, 10 * rounds)
        assert method.validation_amount == 10 * optimizer.batch_size
        assert (optimizer.learning_rate, optimizer.min_learning_rate) == (0.025, 0.001)
        assert (optimizer.clip, optimizer.momentum, optimizer.weight_decay) == (0.25, 0.9, 3e-4)

    @pytest.mark.parametrize(("name", "value"), [("candidates", 0), ("finalists", -1)])
    def test_ranges(self, name: str, value: int) -> None:
        with pytest.raises(UserError, match=name):
            RandomSharingOptions(**{name: value})
