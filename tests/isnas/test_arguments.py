"""Arguments that people give to the functions: each works, or is one clear `UserError`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isnas
from isnas.runs.evaluation import evaluation_schema

TINY = {"channels": 2, "cells": 3, "classes": 2}
SCHEMA = evaluation_schema(isnas.DARTS_SPACE)


@pytest.fixture(scope="module")
def network() -> isnas.CellNetwork:
    return isnas.build_network("DARTS_V2", **TINY).eval()


class TestOptions:
    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            ({"data": Path("photos")}, "photos"),
            ({"channels": np.int64(4)}, 4),
            ({"learning_rate": np.float32(0.5)}, 0.5),
            ({"flip": np.bool_(False)}, False),
            ({"device": torch.device("cpu")}, "cpu"),
            ({"device": torch.device("cuda", 1)}, "cuda:1"),
        ],
    )
    def test_values_of_other_libraries_are_taken(self, value: dict[str, Any], plain: Any) -> None:
        (name,) = value
        found = SCHEMA.compose(**value).to_json()[name]
        assert found == plain and type(found) is type(plain)

    def test_a_list_is_as_good_as_a_tuple(self) -> None:
        options = isnas.search_options("ista-two-stage", "darts", m=[7, 8, 9, 10])
        assert options == isnas.search_options("ista-two-stage", "darts", m=(7, 8, 9, 10))

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"channels": "4"}, "channels must be a whole number, got '4'"),
            ({"channels": 4.0}, r"channels must be a whole number, got 4\.0"),
            ({"channels": True}, "channels must be a whole number, got True"),
            ({"channels": None}, "channels must be a whole number, got None"),
            ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
            ({"learning_rate": np.array([0.1, 0.2])}, "learning_rate must be a number, got array"),
            ({"flip": 1}, "flip must be true or false, got 1"),
            ({"data": 3}, "data must be text, got 3"),
            ({"crop": "x"}, "crop must be one of pad, resized, got 'x'"),
            ({"chanels": 4}, "there is no option chanels; did you mean channels?"),
            ({"preset": None}, "preset must be one of .*, got None"),
        ],
    )
    def test_a_wrong_type_is_said(self, value: dict[str, Any], message: str) -> None:
        with pytest.raises(isnas.UserError, match=message):
            SCHEMA.compose(**value)


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "no genotype": (lambda: isnas.evaluate(None), "expected a Genotype, .* got None"),
    "genotype's name": (lambda: isnas.evaluate("DARTS_V9"), r"did you mean DARTS_V2\?"),
    "nothing to draw": (lambda: isnas.draw_cells(3), "expected a Genotype, .* got 3"),
    "no text": (lambda: isnas.Genotype.parse(None), "expected the text of a genotype, got None"),
    "option of a network": (
        lambda: isnas.build_network("DARTS_V2", chanels=2),
        r"no option chanels; did you mean channels\?",
    ),
    "type of an option": (
        lambda: isnas.build_network("DARTS_V2", channels="2"),
        "channels must be a whole number, got '2'",
    ),
    "space": (lambda: isnas.search("darts-1", "dart"), "no space is called 'dart'; did you mean"),
    "no space": (lambda: isnas.search("darts-1", None), "no space is called None"),
    "class of a space": (lambda: isnas.build_supernet(isnas.DartsSpace), "no space is called"),
    "method": (lambda: isnas.search("dart-1"), r"no method is called 'dart-1'; did you mean"),
    "no method": (lambda: isnas.search(None), "no method is called None"),
    "jobs": (lambda: isnas.compare(jobs="2"), "jobs must be a whole number, got '2'"),
    "backend": (lambda: isnas.compare(backend="lokey"), r"loky, dask, ray, .*did you mean loky\?"),
    "path of a run": (lambda: isnas.resume(3), "a path must be a text or a path object, got 3"),
    "path of a record": (lambda: isnas.RunRecord(None), "a path must be .*, got None"),
    "path of a network": (lambda: isnas.load_network(b"x"), "a path must be .*, got b'x'"),
    "options of a code": (
        lambda: isnas.SparseCode(isnas.DARTS_SPACE, {"s": 2}),
        "options must be SparseCodeOptions, got {'s': 2}",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_said(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(isnas.UserError, match=message):
        call()


def test_names_stand_for_what_they_name() -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    network = isnas.build_network("DARTS_V2", **TINY)
    assert isnas.Genotype.of(network).canonical() == genotype.canonical()
    assert isnas.get_space(isnas.DARTS_SPACE) is isnas.DARTS_SPACE
    assert isnas.build_supernet("darts", **TINY).space == isnas.DARTS_SPACE
    assert isnas.draw_cells("DARTS_V2").get_size_inches()[0] > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\); a single image x is the batch x\[None\]"),
        (torch.zeros(2, 1, 8, 8), r"must be of shape \(B, 3, H, W\), got \(2, 1, 8, 8\)$"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "must be floating-point and normalised"),
        (np.zeros((2, 3, 8, 8)), "must be a tensor of shape"),
    ],
)
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_images_that_are_no_batch(
    images: Any, message: str, space: str, network: isnas.CellNetwork
) -> None:
    if space == "nasbench201":
        network = isnas.build_supernet(space, channels=2, cells=1, classes=2)
    with pytest.raises(isnas.UserError, match=message):
        network(images)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_there_is_no_gpu() -> None:
    from isnas.runtime.devices import resolve_device

    reason = "built without CUDA"
    if torch.backends.cuda.is_built():
        reason = "finds no GPU"
    with pytest.raises(isnas.UserError, match=f"'cuda' cannot be used here: .*{reason}"):
        resolve_device("cuda")
    with pytest.raises(isnas.UserError, match="'gpu' cannot be used here: there is no such device"):
        resolve_device("gpu")
