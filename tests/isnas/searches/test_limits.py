"""Limits: what texts mean, that nothing beyond them is drawn, trained or found, and that drawing stays even."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

import isnas
from isnas import (
    DARTS_SPACE,
    NASBENCH201_SPACE,
    Coefficients,
    Dataset,
    Genotype,
    RunRecord,
    UserError,
    build_supernet,
)
from isnas.codes.choices import Choices
from isnas.comparison.compare import compare
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.latency import LatencyTable
from isnas.networks.registry import build_network
from isnas.searches.limits import LimitedChoices, Limits, bounds_of, choices_within
from isnas.searches.registry import METHODS, create_search

SHAPE = {"channels": 2, "cells": 1}
TINY = {**SHAPE, "batch_size": 8}
SEARCHING = {
    "random": {"architectures": 3, "epochs": 1},
    "grid": {"architectures": 40, "epochs": 1},
    "evolution": {"architectures": 6, "population": 3, "epochs": 1},
    "generational": {"architectures": 6, "population": 3, "parents": 2, "children": 2, "epochs": 1},
    "reinforce": {"architectures": 12, "epochs": 1},
    "successive-halving": {"architectures": 3, "epochs": 2, "eta": 2},
    "hyperband": {"architectures": 3, "epochs": 2, "eta": 2},
    "asha": {"architectures": 3, "epochs": 2, "eta": 2},
    "random-sharing": {"candidates": 5, "epochs": 1},
    "ista-two-stage": {"epochs": 2, "code_learning_rate": 0.5},
    "ista-finalists": {"epochs": 2, "finalists": 3, "evaluation_epochs": 0},
    "ista-one-stage": {"search_epochs": 2, "epochs": 1, "code_learning_rate": 0.5},
    "darts-1": {"epochs": 2},
    "darts-2": {"epochs": 2},
    "pc-darts": {"epochs": 2, "warm_up": 0, "partial": 2},
    "gdas": {"epochs": 2},
    "enas": {"epochs": 1, "controller_steps": 1, "samples": 2, "final_samples": 8},
    "hm-nas": {"epochs": 4},
    "zero-cost-pt": {"proposals": 2, "validation_batches": 1},
    **{
        f"training-free-{ranker}": {"architectures": 12}
        for ranker in ("parameters", "multiply-adds", "naswot", "az-nas")
    },
}


def sizes_of(genotype: Genotype, **shape: Any) -> tuple[int, int]:
    """Return parameters and multiply-adds of a built network on the toy images."""
    network = build_network(genotype, **{**SHAPE, "classes": 4, "in_channels": 1, **shape})
    return count_parameters(network), count_multiply_adds(network, (8, 8))


@cache
def median_size() -> int:
    random = torch.Generator().manual_seed(0)
    drawn = [Choices(NASBENCH201_SPACE).random(random) for _ in range(101)]
    shape = {**SHAPE, "classes": 4, "in_channels": 1}
    return sorted(count_parameters(build_network(genotype, **shape)) for genotype in drawn)[50]


def test_texts() -> None:
    assert bounds_of(()) == {}
    texts = ("parameters=3.7M", "multiply-adds=600k")
    assert bounds_of(texts) == {"parameters": 3_700_000, "multiply-adds": 600_000}
    assert bounds_of(("multiply-adds=2G",)) == {"multiply-adds": 2_000_000_000}
    assert bounds_of(("parameters=17",)) == {"parameters": 17}
    for text, seconds in (("5ms", 0.005), ("250us", 0.00025), ("1.5s", 1.5)):
        assert bounds_of((f"latency={text}",)) == {"latency": pytest.approx(seconds)}
    wrong = ("parameters", "parameters=", "parameters=3m", "parameters=-1", "parameter=3M")
    for text in (*wrong, "latency=5", "latency=5M", "parameters=5ms"):
        with pytest.raises(UserError, match="limit must be parameters=AMOUNT or multiply-adds="):
            bounds_of((text,))
    for text in ("parameters=0", "parameters=0.3", "latency=0s", f"parameters={'9' * 400}"):
        with pytest.raises(UserError, match="must be above 0 and finite, got"):
            bounds_of((text,))
    for text in ("parameters=3M,latency=5ms", "parameters=3M latency=5ms"):
        with pytest.raises(UserError, match="limits are separated by spaces"):
            bounds_of((text,))
    with pytest.raises(UserError, match="parameters is given twice"):
        bounds_of(("parameters=1M", "parameters=2M"))


class TestChoices:
    def limits(self, data: Dataset, *texts: str, **changes: Any) -> Limits:
        search = create_search("random", NASBENCH201_SPACE, data, limit=texts, **TINY)
        return Limits(replace(search.setting, **changes))

    def test_each_architecture_within_is_drawn_alike(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        """With limits that leave a few of 15,625, counted by building all that are small enough to be among them."""
        data = toy_data(32)
        least = sizes_of(next(Choices(NASBENCH201_SPACE).all()))[0]
        choices = LimitedChoices(self.limits(data, f"parameters={least + 60}"), None)
        within = list(choices.all())
        assert 5 < len(within) < 2000
        few = within[:: max(1, len(within) // 20)]
        assert all(sizes_of(genotype)[0] <= least + 60 for genotype in few)
        counted = sum(
            sizes_of(genotype)[0] <= least + 60
            for i, genotype in enumerate(Choices(NASBENCH201_SPACE).all())
            if i % 125 == 0
        )
        allowed = {str(genotype) for genotype in within}
        every = enumerate(Choices(NASBENCH201_SPACE).all())
        assert counted == sum(str(genotype) in allowed for i, genotype in every if i % 125 == 0)
        random = torch.Generator().manual_seed(0)
        drawn = Counter(str(choices.random(random)) for _ in range(300))
        assert set(drawn) <= allowed
        assert max(drawn.values()) < 40

    def test_mutants_are_neighbours_within(self, toy_data: Callable[..., Dataset]) -> None:
        limits = self.limits(toy_data(32), f"parameters={median_size()}")
        choices, random = LimitedChoices(limits, None), torch.Generator().manual_seed(0)
        genotype = choices.random(random)
        for _ in range(20):
            child = choices.mutate(genotype, random)
            assert limits.allow(child)
            cells = [set(g["cell"].nodes[i]) for g in (genotype, child) for i in range(3)]
            assert sum(a != b for a, b in zip(cells[:3], cells[3:], strict=True)) == 1
            genotype = child

    def test_sizes_are_those_of_the_network_that_is_trained(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        data = toy_data(32)
        genotype = Choices(NASBENCH201_SPACE).random(torch.Generator().manual_seed(1))
        own = self.limits(data).sizes(genotype)
        assert tuple(own.values()) == sizes_of(genotype)
        target = create_search(
            "random", NASBENCH201_SPACE, data, **{**TINY, "channels": 6, "cells": 2}
        )
        other = self.limits(data, target=target.setting.options.network).sizes(genotype)
        assert tuple(other.values()) == sizes_of(genotype, channels=6, cells=2)

    def test_what_cannot_be_is_said(self, toy_data: Callable[..., Dataset]) -> None:
        with pytest.raises(UserError, match="none of 10,000 random architectures"):
            create_search(
                "random", NASBENCH201_SPACE, toy_data(32), limit=("parameters=5",), **TINY
            )
        with pytest.raises(UserError, match="no architecture that grid search asks for"):
            create_search("grid", NASBENCH201_SPACE, toy_data(32), limit=("parameters=5",), **TINY)

    def test_without_limits_nothing_changes(self, toy_data: Callable[..., Dataset]) -> None:
        search = create_search("random", NASBENCH201_SPACE, toy_data(32), **TINY)
        assert type(choices_within(search.limits, None)) is Choices


@pytest.mark.parametrize("name", SEARCHING)
def test_limits_that_nothing_keeps_show_before_the_first_step(
    name: str, toy_data: Callable[..., Dataset]
) -> None:
    options = {**TINY, "limit": ("parameters=5",), **SEARCHING[name]}
    with pytest.raises(UserError, match=r"^limit"):
        create_search(name, NASBENCH201_SPACE, toy_data(32), **options)


def test_every_method_is_tried() -> None:
    assert set(SEARCHING) == set(METHODS)


@pytest.mark.parametrize("name", SEARCHING)
def test_what_is_found_and_trained_is_within(
    name: str, toy_data: Callable[..., Dataset], drive: Callable[..., Any], recorder: Any
) -> None:
    """By built networks; a search that goes on from its state asks for the same."""
    bound = median_size()
    options = {
        **TINY,
        "limit": (f"parameters={bound}",),
        **SEARCHING[name],
    }
    data = toy_data(32)
    search = create_search(name, NASBENCH201_SPACE, data, **options)
    drive(search, recorder, 2)
    other = create_search(name, NASBENCH201_SPACE, data, **options)
    other.load_state_dict(search.state_dict())
    for each in (search, other):
        drive(each, recorder)
    assert search.genotype() == other.genotype()
    trained = [entry[0] for entry in getattr(search, "asked", []) if isinstance(entry, tuple)]
    for genotype in [search.genotype(), *trained]:
        assert sizes_of(genotype)[0] <= bound


class TestNearest:
    def limits(self, data: Dataset, bound: int) -> Limits:
        limit = (f"parameters={bound}",)
        return create_search("random", NASBENCH201_SPACE, data, limit=limit, **TINY).limits

    def test_is_within_wherever_anything_is(self, toy_data: Callable[..., Dataset]) -> None:
        """From the largest cell to bounds down to the smallest there is; below that it fails."""
        data, choices = toy_data(32), Choices(NASBENCH201_SPACE)
        sizes = sorted(
            {sizes_of(genotype)[0] for i, genotype in enumerate(choices.all()) if i % 40 == 0}
        )
        least = sizes_of(Genotype.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"))[0]
        conv = "nor_conv_3x3"
        largest = Genotype.parse(f"|{conv}~0|+|{conv}~0|{conv}~1|+|{conv}~0|{conv}~1|{conv}~2|")
        random = torch.Generator().manual_seed(0)
        places = [place for choice in NASBENCH201_SPACE.choices for place in choice.candidates]
        value = {"cell": Coefficients(torch.rand(24, generator=random), tuple(places))}
        for bound in (*sizes[1::4], least):
            found = self.limits(data, bound).nearest(largest, value)
            assert sizes_of(found)[0] <= bound
        with pytest.raises(UserError, match="no architecture of this depth and width was found"):
            create = create_search(
                "darts-1", NASBENCH201_SPACE, data, limit=(f"parameters={least - 1}",), **TINY
            )
            create.limits.nearest(largest, value)

    def test_keeps_what_is_worth_most(self, toy_data: Callable[..., Dataset]) -> None:
        """One exchange is enough: it is the one that loses the least value for what it saves, by trying all."""
        conv, small = "nor_conv_3x3", "nor_conv_1x1"
        largest = f"|{conv}~0|+|{conv}~0|{conv}~1|+|{conv}~0|{conv}~1|{conv}~2|"
        cell = Genotype.parse(largest)
        size = sizes_of(cell)[0]
        one = sizes_of(Genotype.parse(largest.replace(conv, small, 1)))[0]
        limits = self.limits(toy_data(32), one)
        places = cell.places(NASBENCH201_SPACE)["cell"]
        values = torch.tensor([1.0 + (i != 4) for i in range(len(places))])
        value = {"cell": Coefficients(values, tuple(places))}
        found = limits.nearest(cell, value)
        edges = [edge.operation for node in found["cell"].nodes for edge in node]
        assert sizes_of(found)[0] <= one < size
        assert edges.count(conv) == 5
        kept = [(e.operation, e.source) for node in cell["cell"].nodes for e in node][:4]
        assert [(e.operation, e.source) for node in found["cell"].nodes for e in node][:4] == kept

    def test_leaves_alone_what_is_within(self, toy_data: Callable[..., Dataset]) -> None:
        limits = self.limits(toy_data(32), 10**6)
        genotype = Choices(NASBENCH201_SPACE).random(torch.Generator().manual_seed(3))
        assert limits.nearest(genotype) is genotype


def test_the_penalty_of_a_sparse_code(toy_data: Callable[..., Dataset]) -> None:
    """The l1 norm of the coefficients, each times the share of the limits that its operation takes.

    A step of the codes follows it: its gradient is that of the loss and A_S (w share sign(c)).
    """
    bound = median_size()
    options = {**TINY, "limit": (f"parameters={bound}",), "init_scale": 0.5}

    def search_of(**changes: Any) -> Any:
        values = {**options, "code_weight_decay": 0.0, **changes}
        return create_search("ista-two-stage", NASBENCH201_SPACE, toy_data(32), **values)

    unlimited = search_of(limit=(), limit_penalty=3.0)
    assert unlimited.penalty(unlimited.code.coefficients()) == 0.0
    search = search_of(limit_penalty=3.0)
    assert search.limits.allow(search.genotype())
    coefficients = search.code.coefficients()
    network = build_supernet(NASBENCH201_SPACE, **SHAPE, classes=4, in_channels=1)
    values, places = coefficients["cell"].values, coefficients["cell"].places
    sizes = [
        sum(p.numel() for o in network.operations_at("cell", [place]) for p in o.parameters())
        for place in places
    ]
    shares = [size / bound for size in sizes]
    expected = 3.0 * sum(share * abs(c) for share, c in zip(shares, values.tolist(), strict=True))
    assert search.penalty(coefficients).item() == pytest.approx(expected, rel=1e-5)

    batch, gradients = next(iter(search.valid_feed.epoch(0))), []
    for each in (search_of(), search):
        each.network.train()
        each._update_code = lambda: None
        each.train_code(batch)
        gradients.append([b.grad.double() for b in each.code.b])
    signs = iter(
        [
            3.0 * share * (1 if c > 0 else -1)
            for share, c in zip(shares, values.tolist(), strict=True)
        ]
    )
    for without, with_penalty, A, support in zip(
        *gradients, search.code.A, search.code.support, strict=True
    ):
        added = A[:, list(support)] @ torch.tensor([next(signs) for _ in support]).double()
        torch.testing.assert_close(with_penalty - without, added, rtol=1e-4, atol=1e-6)
    assert any(share > 0 for share in shares)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 2])
def test_scores_are_penalised_for_what_would_be_found(
    width: int, seed: int, toy_data: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all losses are alike a step follows the excess of the cells alone, however wide the paths are."""
    bound = median_size()
    options = {**TINY, "preset": "smoothed", "limit": (f"parameters={bound}",), "seed": seed}
    search = create_search(
        "ista-two-stage",
        NASBENCH201_SPACE,
        toy_data(32),
        **{**options, "limit_penalty": 3.0, "path_width": width},
    )
    monkeypatch.setattr(search.weights, "loss", lambda batch, places: (torch.zeros(()), {}))
    (e,) = search._noise("score", 1)
    plus, minus = (
        max(0.0, sizes_of(Genotype.from_places(places, NASBENCH201_SPACE))[0] / bound - 1)
        for places in search.code.places_at(torch.stack([e, -e]))
    )
    assert plus != minus
    search.score_code(None)
    assert search.spread == pytest.approx((3.0 * (plus - minus)) ** 2)
    expected = -search.options.method.code_learning_rate * e * (1 if plus > minus else -1)
    moved = torch.cat([b.detach() for b in search.code.b]).double()
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-8)


class TestLatency:
    def test_the_table_sums_what_was_measured(self) -> None:
        """By a clock that goes on by a second whenever it is read: every operation takes one, in each of two cells."""
        ticks = iter(range(10**9))
        supernet = build_supernet(NASBENCH201_SPACE, channels=2, cells=1, in_channels=1)
        cells = [
            Choices(NASBENCH201_SPACE).random(torch.Generator().manual_seed(i)) for i in range(4)
        ]
        samples = [cell.places(NASBENCH201_SPACE) for cell in cells]
        table = LatencyTable.measure(supernet, (8, 8), samples, clock=lambda: float(next(ticks)))
        assert set(table.costs["cell"].values()) == {3.0}  # a cell of each of three stages
        counts = [3 * len(each["cell"]) for each in samples]
        assert table.rest == max(0.0, 1 - sorted(counts)[1]) == 0.0
        assert table.seconds(samples[0]) == counts[0]
        assert table.error == max(counts) - 1
        again = LatencyTable.from_json(table.to_json(NASBENCH201_SPACE), NASBENCH201_SPACE)
        assert again == table
        with pytest.raises(ValueError, match="no table of latencies of the space darts"):
            LatencyTable.from_json(table.to_json(NASBENCH201_SPACE), DARTS_SPACE)

    def test_a_run_records_its_table_and_goes_on_by_it(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With costs that are made up: 3x3 convolutions take a millisecond and all else nothing."""
        measured = []

        def measure(supernet: Any, size: Any, samples: Any) -> LatencyTable:
            measured.append(size)
            slow = NASBENCH201_SPACE.primitives.index("nor_conv_3x3")
            costs = {p: 1e-3 * (p.operation == slow) for p in NASBENCH201_SPACE.places()}
            return LatencyTable(1e-3, {"cell": costs}, 0.0)

        monkeypatch.setattr(LatencyTable, "measure", measure)
        options = {"limit": ("latency=2.5ms",), "epochs": 1, "evaluation_epochs": 1}
        result = isnas.search(
            "gdas",
            "nasbench201",
            data="digits",
            out=tmp_path / "run",
            random_architectures=2,
            device="cpu",
            **{**options, **SHAPE, "batch_size": 256},
        )
        assert measured == [(8, 8)]
        found = [result.results[part]["genotype"] for part in ("found", "random-1", "random-2")]
        assert all(text.count("nor_conv_3x3") <= 1 for text in found)
        recorded = RunRecord(tmp_path / "run").config["latencies"]
        assert recorded["search"]["rest"] == 1e-3
        assert len(measured) == 1

        # with no more than what stood there at the beginning it goes by the recorded table
        def begin_again() -> Any:
            shutil.rmtree(tmp_path / "run" / "checkpoints")
            (tmp_path / "run" / "results.json").unlink()
            return isnas.resume(tmp_path / "run")

        again = begin_again()
        assert [again.results[p]["genotype"] for p in ("found", "random-1", "random-2")] == found
        assert len(measured) == 1

        config = json.loads((tmp_path / "run" / "config.json").read_text())
        config["latencies"]["search"]["costs"]["cell"] = {"node9": 1.0}
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="latencies of the run: no table of latencies"):
            begin_again()

    def test_comparisons_report_it(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def measure(supernet: Any, size: Any, samples: Any) -> LatencyTable:
            costs = dict.fromkeys(NASBENCH201_SPACE.places(), 1e-3)
            return LatencyTable(1e-3, {"cell": costs}, 0.0)

        monkeypatch.setattr(LatencyTable, "measure", measure)
        comparison = compare(
            "nasbench201",
            out=tmp_path / "out",
            methods=("gdas", "random"),
            limit=("latency=4ms",),
            data="digits",
            seeds=1,
            budget="1epochs",
            child_epochs=1,
            sampled=0,
            hand_made=False,
            evaluation_epochs=1,
            device="cpu",
            **SHAPE,
        )
        for row in comparison.rows:
            kept = 6 - row["genotype"].count("none")
            assert row["latency"] == pytest.approx(1e-3 * (1 + kept)) and kept <= 3
        assert "latency ms" in (tmp_path / "out" / "table.md").read_text()
