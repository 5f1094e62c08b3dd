"""Options describe themselves, refuse what is out of range, and hold the published constants."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from isnas import UserError
from isnas.runtime.options import option_fields
from isnas.searches.two_stage import code_optimizer
from isnas.runs.training import cosine

ALL = (SearchOptions, EvaluateOptions, TrainOptions)

BAD: dict[str, list[object]] = {
    "seed": [-1, 1.5, True, None, "0"],
    "threads": [-1, 1.5, None, "2"],
    "channels": [0, 1, 2.5, "16", None],
    "cells": [2, -1],
    "batch_size": [0, 1],
    "epochs": [0, -1, 1.0],
    "learning_rate": [-0.1, math.nan, math.inf, "fast", None, True],
    "min_learning_rate": [-1e-9, math.nan],
    "momentum": [-0.1, 1.0, 2, math.nan],
    "weight_decay": [-1, math.inf],
    "clip": [-1, math.nan],
    "schedule": ["step", None],
    "warm_up_epochs": [-1, 0.5],
    "label_smoothing": [-0.1, 1, math.nan],
    "image_size": [0, 3, 8.0],
    "crop": ["random", None],
    "colour_jitter": [-0.1, 1, math.nan],
    "corrupt": ["ignore", None],
    "download": [1, "yes", None],
    "data": [3, None],
    "checkpoint_steps": [-1, 0.5],
    "tensorboard": [1, None],
    "sync_batch_norm": [1, "yes", None],
    "precision": ["float16", "bf16", None],
    "compile": ["yes", 1, None],
    "code_learning_rate": [-1, math.nan],
    "code_weight_decay": [-1, math.nan],
    "evaluation_preset": ["best", None],
    "evaluation_epochs": [-1],
    "evaluation_channels": [1, 0],
    "evaluation_cells": [2],
    "random_architectures": [-1, 1.5],
    "stem": ["mnist", None, 3],
    "cutout": [-1, 0.5],
    "drop_path": [-0.1, 1.0, math.nan],
    "auxiliary_weight": [-0.4, math.inf],
    "search_epochs": [0],
    "freeze_threshold": [-1e-3, math.nan],
    "freeze_floor": [-1, math.nan],
    "size_limit": [0, -5, 1e6],
    "m": [0, 7.0, "7", (7, 0)],
    "s": [0, ()],
    "lam": [-1.0, math.nan, math.inf, "small", None, True],
    "init_scale": [0.0, math.inf, None, "small"],
    "matrix": ["hadamard", None],
    "rule": ["greedy"],
    "reencode": [1, None],
    "solver": ["lars"],
}


class TestDescriptions:
    @pytest.mark.parametrize("options", ALL)
    def test_every_option_has_a_help_text(self, options: type[RunOptions]) -> None:
        described = {field.name: field for field in option_fields(options)}
        assert set(described) == {field.name for field in dataclasses.fields(options)}
        for name, field in described.items():
            assert len(field.help) > 5, name
            assert field.help.endswith("."), name
            assert field.default == getattr(options(), name)

    def test_types_and_choices_are_read_off_the_annotations(self) -> None:
        described = {field.name: field for field in option_fields(TrainOptions)}
        assert described["lam"].type is float
        assert described["m"].type is tuple
        assert described["matrix"].choices == ("gaussian", "uniform", "orthogonal")
        assert described["size_limit"].optional and described["size_limit"].type is int
        assert not described["seed"].optional
        assert described["download"].type is bool

    def test_the_same_name_means_the_same_everywhere(self) -> None:
        texts: dict[str, set[str]] = {}
        for options in ALL:
            for field in option_fields(options):
                texts.setdefault(field.name, set()).add(f"{field.type} {field.help}")
        assert all(len(each) == 1 for each in texts.values())


class TestRanges:
    @pytest.mark.parametrize("options", ALL)
    def test_every_option_that_has_a_range_is_checked(self, options: type[RunOptions]) -> None:
        """What is not in the list above is free text that is checked where it is used."""
        unchecked = {field.name for field in dataclasses.fields(options)} - set(BAD)
        assert unchecked <= {"data_root", "device"}

    @pytest.mark.parametrize(
        ("options", "name", "value"),
        [
            (options, name, value)
            for options in ALL
            for field in dataclasses.fields(options)
            for name, values in BAD.items()
            if name == field.name
            for value in values
        ],
    )
    def test_a_bad_value_is_named(
        self, options: type[RunOptions], name: str, value: object
    ) -> None:
        with pytest.raises(UserError, match=rf"\b{name}\b") as caught:
            options(**{name: value})
        assert "\n" not in str(caught.value)

    def test_whole_numbers_do_for_real_ones(self) -> None:
        assert SearchOptions(learning_rate=1, momentum=0, lam=0).learning_rate == 1

    def test_none_means_the_default_where_it_says_so(self) -> None:
        for options in ALL:
            for field in option_fields(options):
                if field.optional:
                    assert getattr(options(**{field.name: None}), field.name) is None

    def test_an_unknown_option_is_refused(self) -> None:
        with pytest.raises(TypeError):
            SearchOptions(learning_rat=0.1)
        with pytest.raises(UserError, match="learning_rat"):
            SearchOptions.from_json({"learning_rat": 0.1})


class TestJson:
    @pytest.mark.parametrize("options", ALL)
    @pytest.mark.parametrize("preset", ["quick", "paper"])
    def test_survives(self, options: type[RunOptions], preset: str) -> None:
        made = options.preset(preset, seed=2**40, learning_rate=0.1 + 0.2)
        assert options.from_json(json.loads(json.dumps(made.to_json()))) == made

    def test_tuples_survive(self) -> None:
        made = TrainOptions(m=(5, 6, 7, 8), s=(1, 2, 3, 4), size_limit=None, cutout=0)
        assert TrainOptions.from_json(json.loads(json.dumps(made.to_json()))) == made

    @pytest.mark.parametrize(
        "data", [{"seed": "1"}, {"m": [7, "7"]}, {"m": {}}, {"lam": "x"}, {"epochs": [3]}]
    )
    def test_wrong_values_are_user_errors(self, data: dict[str, object]) -> None:
        with pytest.raises(UserError, match=next(iter(data))):
            SearchOptions.from_json(data)


class TestPresets:
    @pytest.mark.parametrize("options", ALL)
    def test_quick_is_the_default(self, options: type[RunOptions]) -> None:
        assert options.preset("quick") == options()

    @pytest.mark.parametrize("options", ALL)
    def test_changes_come_on_top(self, options: type[RunOptions]) -> None:
        paper = options.preset("paper")
        changed = options.preset("paper", channels=5, seed=3)
        assert changed == dataclasses.replace(paper, channels=5, seed=3)
        with pytest.raises(UserError, match="channels"):
            options.preset("paper", channels=-5)

    @pytest.mark.parametrize("options", ALL)
    def test_an_unknown_one_lists_those_there_are(self, options: type[RunOptions]) -> None:
        with pytest.raises(UserError, match=r"quick.*paper.*'best'"):
            options.preset("best")

    def test_two_stage_search_of_the_paper(self) -> None:
        """METHOD.md, sections 2 and 3."""
        p = SearchOptions.preset("paper")
        assert p.data == "cifar10"
        assert (p.epochs, p.cells, p.channels, p.batch_size) == (50, 8, 16, 256)
        assert (p.learning_rate, p.min_learning_rate) == (0.1, 0.001)
        assert (p.momentum, p.weight_decay, p.clip) == (0.9, 3e-4, 5)
        assert (p.code_learning_rate, p.code_weight_decay) == (6e-4, 1e-3)
        assert (p.m, p.s, p.lam, p.matrix, p.init_scale) == (7, 2, 1e-5, "uniform", 1e-3)
        assert (p.rule, p.reencode) == ("truncate", False)
        assert (p.evaluation_preset, p.evaluation_epochs) == ("paper", 600)
        assert (p.evaluation_cells, p.evaluation_channels) == (20, 36)

    def test_evaluation_of_the_paper(self) -> None:
        p = EvaluateOptions.preset("paper")
        assert (p.data, p.epochs, p.cells, p.channels, p.batch_size) == ("cifar10", 600, 20, 36, 96)
        assert (p.learning_rate, p.min_learning_rate) == (0.025, 0)
        assert (p.momentum, p.weight_decay, p.clip) == (0.9, 3e-4, 5)
        assert (p.drop_path, p.auxiliary_weight) == (0.2, 0.4)
        assert p.cutout in (None, 16)  # by default the data set's, 16 for CIFAR
        assert p.stem == "cifar"

    def test_one_stage_training_of_the_paper(self) -> None:
        """METHOD.md, section 4."""
        p, evaluation = TrainOptions.preset("paper"), EvaluateOptions.preset("paper")
        for field in dataclasses.fields(EvaluateOptions):
            assert getattr(p, field.name) == getattr(evaluation, field.name)
        assert (p.freeze_threshold, p.size_limit) == (1e-3, 3_700_000)
        assert p.search_epochs >= 120
        assert (p.code_learning_rate, p.code_weight_decay) == (6e-4, 1e-3)
        assert (p.m, p.s, p.lam, p.matrix, p.init_scale) == (7, 2, 1e-5, "uniform", 1e-3)
        assert TrainOptions().size_limit is None

    def test_the_codes_optimiser_is_the_papers_adam(self) -> None:
        b = torch.nn.Parameter(torch.zeros(7))
        adam = code_optimizer([b], SearchOptions.preset("paper"))
        assert isinstance(adam, torch.optim.Adam)
        group = adam.param_groups[0]
        assert group["betas"] == (0.5, 0.999)
        assert (group["lr"], group["weight_decay"], group["amsgrad"]) == (6e-4, 1e-3, False)

    def test_cosine(self) -> None:
        assert [cosine(0.1, 0.001, done) for done in (0, 0.5, 1)] == pytest.approx(
            [0.1, 0.0505, 0.001]
        )
        steps = [cosine(1, 0, i / 10) for i in range(11)]
        assert steps == sorted(steps, reverse=True)


def test_options_of_several_values() -> None:
    field = {field.name: field for field in option_fields(CompareOptions)}["methods"]
    assert field.several and field.type is str and field.default == ("all",)
    given = CompareOptions(methods=("enas", "darts"), set=("enas.samples=2",))
    assert CompareOptions.from_json(json.loads(json.dumps(given.to_json()))) == given
    with pytest.raises(UserError, match="methods must be a tuple of text, got 'enas'"):
        CompareOptions(methods="enas")
    with pytest.raises(UserError, match=r"methods must be a tuple of text, got \(3,\)"):
        CompareOptions(methods=(3,))
