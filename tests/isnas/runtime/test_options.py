"""Options describe themselves, refuse what is out of range, and hold the published constants."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from isnas import DARTS_SPACE, METHODS, NASBENCH201_SPACE, UserError, search_options
from isnas.comparison.compare import comparison_schema
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.training import cosine
from isnas.runtime.options import BaseOptions, Nested, Schema
from isnas.searches.sparse_search import code_optimizer

SCHEMAS = {
    "two-stage": METHODS["ista-two-stage"].schema(DARTS_SPACE),
    "one-stage": METHODS["ista-one-stage"].schema(DARTS_SPACE),
    "evaluate": evaluation_schema(DARTS_SPACE),
}
ALL = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
EVERY = [
    *(
        method.schema(space)
        for method in METHODS.values()
        for space in (DARTS_SPACE, NASBENCH201_SPACE)
    ),
    evaluation_schema(DARTS_SPACE),
    evaluation_schema(NASBENCH201_SPACE),
    comparison_schema(DARTS_SPACE),
    comparison_schema(NASBENCH201_SPACE),
]

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
    "colour": ["sepia", None],
    "flip": [1, "yes", None],
    "split": [0, 1, -0.5, math.nan],
    "validate": [1, -0.5, math.nan],
    "layout": ["nchw", None],
    "nesterov": [1, None],
    "drop_skips": [1, None],
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
    "closing_norm": ["some", None],
    "evaluation_epochs": [-1],
    "evaluation_channels": [1, 0],
    "evaluation_cells": [2],
    "random_architectures": [-1, 1.5],
    "stem": ["mnist", None, 3],
    "cutout": [-1, 0.5],
    "drop_path": [-0.1, 1.0, math.nan],
    "dropout": [-0.1, 1.0, math.nan],
    "auxiliary_weight": [-0.4, math.inf],
    "search_epochs": [0],
    "freeze_threshold": [-1e-3, math.nan],
    "freeze_by": ["sum", None],
    "freeze_floor": [-1, math.nan],
    "m": [0, 7.0, "7", (7, 0)],
    "s": [0, ()],
    "lam": [-1.0, math.nan, math.inf, "small", None, True],
    "init_scale": [-1.0, math.inf, None, "small"],
    "matrix": ["hadamard", None],
    "rule": ["greedy"],
    "sparsity": ["m", 1, None],
    "reencode": [1, None],
    "solver": ["lars"],
    "gradient": ["adjoint", None],
    "perturbation": [-1.0, math.nan],
    "score_losses": ["valid", None],
    "pairs": [0, 1.5],
    "path_width": [0, 1.5],
    "warm_up_share": [-0.1, 1.0],
    "fair_share": [-0.1, 1.1],
    "warm_start": ["size", None],
    "warm_start_length": [-1.0, math.nan],
    "solve_step": [0.0, -1.0, math.nan],
    "code_batch_size": [0, 1.5],
    "limit": [("parameters=-1",), ("latency=5",), 3],
    "limit_penalty": [-1.0, math.nan],
}


@dataclass(frozen=True)
class One(BaseOptions):
    """One part.

    Parameters
    ----------
    width : int
        How wide it is.
    """

    width: int = 3


@dataclass(frozen=True)
class Other(BaseOptions):
    """Another part.

    Parameters
    ----------
    speed : float
        How fast it is.
    laps : int
        How often.
    """

    speed: float = 1.0
    laps: int = 2


class TestSchema:
    INNER = Schema({"one": One, "other": Other}, presets={"far": {"laps": 50, "width": 9}})

    def outer(self, **shown: Any) -> Schema:
        nested = Nested(self.INNER, "then_", follows=("one",), switch="laps")
        return Schema({"one": One, "other": Other, "then": nested}, **shown)

    def test_each_part_gets_its_own_options(self) -> None:
        made = self.outer().compose(width=5, speed=2.0)
        assert made.one == One(5) and made.other == Other(2.0, 2)

    def test_a_nested_recipe_follows_where_nothing_is_given(self) -> None:
        assert self.outer().compose(width=5).then.one == One(5)
        assert self.outer().compose(width=5, then_width=7).then.one == One(7)
        assert self.outer().compose(speed=4.0).then.other == Other(1.0, 2)
        far = self.outer().compose(width=5, then_preset="far")
        assert far.then.one == One(9) and far.then.other.laps == 50
        assert self.outer().compose(then_preset="far", then_laps=3).then.other.laps == 3

    def test_a_nested_recipe_can_be_switched_off(self) -> None:
        assert self.outer().compose(then_laps=0).then is None

    def test_defaults_presets_and_what_is_given_in_this_order(self) -> None:
        schema = self.outer(defaults={"laps": 4, "width": 8}, presets={"slow": {"laps": 9}})
        assert schema.fields["laps"].default == 4
        assert schema.compose().other.laps == 4
        assert (schema.compose("slow").other.laps, schema.compose("slow").one.width) == (9, 8)
        assert schema.compose("slow", laps=1).other.laps == 1

    def test_what_is_fixed_is_nobodys(self) -> None:
        schema = self.outer(fixed={"laps": 7})
        assert "laps" not in schema.fields and schema.compose().other.laps == 7
        with pytest.raises(UserError, match="there is no option laps"):
            schema.compose(laps=3)

    def test_the_same_name_twice_is_a_mistake_of_the_programmer(self) -> None:
        with pytest.raises(ValueError, match="'width'"):
            Schema({"one": One, "again": One})

    def test_a_name_that_is_nearly_right_is_suggested(self) -> None:
        with pytest.raises(UserError, match="no option witdh; did you mean width"):
            self.outer().compose(witdh=3)
        with pytest.raises(UserError, match="'fr'; did you mean far"):
            self.INNER.compose("fr")

    def test_values_survive_and_can_be_replaced(self) -> None:
        made = self.outer().compose(width=5, then_laps=0)
        again = self.outer().from_json(json.loads(json.dumps(made.to_json())))
        assert again == made and again.then is None
        assert made.replace(width=6).one == One(6)
        with pytest.raises(AttributeError, match="no part 'three'"):
            made.three  # noqa: B018


class TestDescriptions:
    @pytest.mark.parametrize("schema", EVERY)
    def test_every_option_has_a_help_text(self, schema: Schema) -> None:
        made = schema.compose()
        for name, field in schema.fields.items():
            assert len(field.help) > 5, name
            assert field.help.endswith("."), name
            assert made.to_json()[name] == field.default

    def test_types_and_choices_are_read_off_the_annotations(self) -> None:
        described = SCHEMAS["one-stage"].fields
        assert described["lam"].type is float
        assert described["m"].type is tuple
        assert described["matrix"].choices == (
            "gaussian",
            "normalised",
            "uniform",
            "orthogonal",
            "balanced",
        )
        assert described["cutout"].optional and described["cutout"].type is int
        assert not described["seed"].optional
        assert described["download"].type is bool

    def test_the_same_name_means_the_same_everywhere(self) -> None:
        texts: dict[tuple[str, str], set[str]] = {}
        for schema in EVERY:
            for name, field in schema.fields.items():
                if field.part in ("data", "optimizer", "runtime", "regularization", "code"):
                    texts.setdefault((field.part, name), set()).add(f"{field.type} {field.help}")
        assert all(len(each) == 1 for each in texts.values())


class TestRanges:
    @ALL
    def test_every_option_that_has_a_range_is_checked(self, schema: Schema) -> None:
        """All values outside the list above are free texts that are checked where they are used."""
        own = {name for name, field in schema.fields.items() if field.part != "evaluation"}
        assert own - set(BAD) <= {"data_root", "device"}

    @pytest.mark.parametrize(
        ("schema", "name", "value"),
        [
            (schema, name, value)
            for schema in SCHEMAS.values()
            for name, values in BAD.items()
            if name in schema.fields
            for value in values
            if not (value is None and (schema.fields[name].optional or name == "evaluation_preset"))
        ],
    )
    def test_a_bad_value_is_named(self, schema: Schema, name: str, value: object) -> None:
        own = name.removeprefix("evaluation_")
        with pytest.raises(UserError, match=rf"\b{own}\b") as caught:
            schema.compose(**{name: value})
        assert "\n" not in str(caught.value)

    def test_whole_numbers_do_for_real_ones(self) -> None:
        made = SCHEMAS["two-stage"].compose(learning_rate=1, min_learning_rate=0, momentum=0, lam=0)
        assert made.optimizer.learning_rate == 1

    def test_none_means_the_default_where_it_says_so(self) -> None:
        for schema in EVERY:
            for name, field in schema.fields.items():
                if field.optional and field.part != "evaluation":
                    assert schema.compose(**{name: None}).to_json()[name] is None

    def test_an_unknown_option_is_refused(self) -> None:
        for schema in SCHEMAS.values():
            with pytest.raises(UserError, match="learning_rat; did you mean learning_rate"):
                schema.compose(learning_rat=0.1)
            with pytest.raises(UserError, match="learning_rat"):
                schema.from_json({"learning_rat": 0.1})


class TestJson:
    @pytest.mark.parametrize("schema", EVERY)
    def test_survives(self, schema: Schema) -> None:
        for preset in schema.presets:
            made = schema.compose(preset)
            assert schema.from_json(json.loads(json.dumps(made.to_json()))) == made

    def test_tuples_survive(self) -> None:
        schema = SCHEMAS["one-stage"]
        made = schema.compose(
            m=(5, 6, 7, 8), s=(1, 2, 3, 4), limit=("parameters=3M", "latency=5ms"), cutout=0
        )
        assert schema.from_json(json.loads(json.dumps(made.to_json()))) == made

    @pytest.mark.parametrize(
        "data", [{"seed": "1"}, {"m": [7, "7"]}, {"m": {}}, {"lam": "x"}, {"epochs": [3]}]
    )
    def test_wrong_values_are_user_errors(self, data: dict[str, object]) -> None:
        with pytest.raises(UserError, match=next(iter(data))):
            SCHEMAS["two-stage"].from_json(data)

    @pytest.mark.parametrize("data", [None, 3, "seed", []])
    def test_no_object_is_a_user_error(self, data: object) -> None:
        with pytest.raises(UserError, match="options must be an object"):
            SCHEMAS["two-stage"].from_json(data)


class TestPresets:
    @pytest.mark.parametrize("schema", EVERY)
    def test_quick_is_the_default(self, schema: Schema) -> None:
        assert schema.compose("quick") == schema.compose()

    @ALL
    def test_changes_come_on_top(self, schema: Schema) -> None:
        paper = schema.compose("paper")
        changed = schema.compose("paper", channels=5, seed=3)
        assert changed == paper.replace(channels=5, seed=3)
        with pytest.raises(UserError, match="channels"):
            schema.compose("paper", channels=-5)

    @ALL
    def test_an_unknown_one_lists_those_there_are(self, schema: Schema) -> None:
        with pytest.raises(UserError, match=r"quick.*paper.*'best'"):
            schema.compose("best")

    def test_two_stage_search_of_the_paper(self) -> None:
        """METHOD.md, sections 2 and 3."""
        p = SCHEMAS["two-stage"].compose("paper")
        o = p.optimizer
        assert p.data.data == "cifar10"
        assert (o.epochs, p.network.cells, p.network.channels, o.batch_size) == (50, 8, 16, 256)
        assert (o.learning_rate, o.min_learning_rate) == (0.1, 0.001)
        assert (o.momentum, o.weight_decay, o.clip) == (0.9, 3e-4, 5)
        assert (p.method.code_learning_rate, p.method.code_weight_decay) == (6e-4, 1e-3)
        self.assert_code_of_the_paper(p.code)
        e = p.evaluation
        assert (e.optimizer.epochs, e.optimizer.batch_size) == (600, 96)
        assert (e.network.cells, e.network.channels) == (20, 36)

    @staticmethod
    def assert_code_of_the_paper(code: Any) -> None:
        assert set(code.lengths(DARTS_SPACE)) == {7} and set(code.places(DARTS_SPACE)) == {2}
        assert (code.lam, code.matrix, code.init_scale) == (1e-5, "uniform", 1e-3)
        assert (code.rule, code.reencode) == ("truncate", False)

    def test_evaluation_of_the_paper(self) -> None:
        p = SCHEMAS["evaluate"].compose("paper")
        o, n, r = p.optimizer, p.network, p.regularization
        assert (p.data.data, o.epochs, n.cells, n.channels) == ("cifar10", 600, 20, 36)
        assert (o.batch_size, o.learning_rate, o.min_learning_rate) == (96, 0.025, 0)
        assert (o.momentum, o.weight_decay, o.clip) == (0.9, 3e-4, 5)
        assert (r.drop_path, r.auxiliary_weight) == (0.2, 0.4)
        assert r.cutout in (None, 16)  # by default the data set's, 16 for CIFAR
        assert n.stem == "cifar"

    def test_one_stage_training_of_the_paper(self) -> None:
        """METHOD.md, section 4."""
        p, evaluation = (SCHEMAS[name].compose("paper") for name in ("one-stage", "evaluate"))
        for part in ("data", "network"):
            assert getattr(p, part) == getattr(evaluation, part)
        # in one-stage training drop path takes skips, too: with their norms they are operations like others
        assert p.regularization == dataclasses.replace(evaluation.regularization, drop_skips=True)
        # the published script's, of which the paper says nothing
        assert p.optimizer == dataclasses.replace(evaluation.optimizer, min_learning_rate=0.001)
        assert (p.method.freeze_threshold, p.limits.limit) == (1e-3, ("parameters=3.7M",))
        assert p.method.search_epochs == 600
        assert (p.method.code_learning_rate, p.method.code_weight_decay) == (3e-4, 1e-3)
        self.assert_code_of_the_paper(p.code)
        assert SCHEMAS["one-stage"].compose().limits.limit == ()

    def test_the_codes_optimiser_is_the_papers_adam(self) -> None:
        b = torch.nn.Parameter(torch.zeros(7))
        adam = code_optimizer([b], search_options("ista-two-stage", DARTS_SPACE, "paper").method)
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
    schema = comparison_schema(DARTS_SPACE)
    field = schema.fields["methods"]
    assert field.several and field.type is str and field.default == ("all",)
    given = schema.compose(methods=("enas", "darts"), set=("enas.samples=2",))
    assert schema.from_json(json.loads(json.dumps(given.to_json()))) == given
    with pytest.raises(UserError, match="methods must be a tuple of text, got 'enas'"):
        schema.compose(methods="enas")
    with pytest.raises(UserError, match=r"methods must be a tuple of text, got \(3,\)"):
        schema.compose(methods=(3,))
