"""A trained network with the preparation of its images: what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photograph_folder, picture
from PIL import Image

import isnas

NASBENCH201 = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|"


def describe(classes: int = 3, **more: object) -> dict:
    names = [f"class {i}" for i in range(classes)]
    return {"classes": names, "size": [8, 8], "mean": [0.5] * 3, "std": [0.25] * 3, **more}


def save(path: Path, data: dict | None, **shape: int) -> Path:
    genotype = isnas.Genotype.parse(NASBENCH201, isnas.NASBENCH201_SPACE)
    shape = {"channels": 2, "cells": 1, "classes": 3, **shape}
    isnas.save_network(isnas.build_network(genotype, **shape), path, data)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "network.pt", describe())


def test_predictions_of_the_test_images_have_the_runs_accuracy(train_run: Path) -> None:
    """The network of a one-stage run, folded."""
    data = isnas.load_dataset("digits")
    classifier = isnas.load_classifier(train_run)
    images = [Image.fromarray(each[0].numpy()) for each in data.test_images]
    right = sum(
        prediction.index == label
        for prediction, label in zip(classifier(images), data.test_labels, strict=True)
    )
    results = json.loads((train_run / "results.json").read_text())["search"]
    assert right / len(images) == results["test_accuracy"]


@pytest.mark.parametrize("options", [{}, {"crop": "resized"}, {"colour": "grey"}])
def test_predictions_of_a_folder_have_the_runs_accuracy(options: dict, tmp_path: Path) -> None:
    photograph_folder(tmp_path / "photos", [(30 + i, 40 - i) for i in range(16)], "jpg")
    data = {"data": str(tmp_path / "photos"), "image_size": 12, **options}
    shape = {"channels": 2, "cells": 3, "batch_size": 8, "epochs": 2, "device": "cpu"}
    out = tmp_path / "run"
    result = isnas.evaluate("DARTS_V2", out=out, **shape, **data)
    classifier = isnas.load_classifier(out)
    assert classifier.classes == ("cat", "dog")
    paths = sorted((tmp_path / "photos" / "val").glob("*/*.jpg"))
    right = sum(
        p.label == path.parent.name for p, path in zip(classifier(paths), paths, strict=True)
    )
    assert right / len(paths) == result.results["evaluate"]["test_accuracy"]
    logits = result.network(classifier.preprocess(paths)).detach().double()
    got = np.stack([p.probabilities for p in classifier(paths)])
    assert np.allclose(got, logits.softmax(1), atol=1e-6)


def test_what_is_loaded_says_what_it_is_for(saved: Path) -> None:
    for path in (saved, str(saved), saved.parent, saved.with_suffix(".json")):
        classifier = isnas.load_classifier(path)
        assert classifier.classes == ("class 0", "class 1", "class 2")
        assert classifier.mean == (0.5,) * 3 and classifier.std == (0.25,) * 3
        assert classifier.preprocess.size == 8
    assert repr(classifier) == "Classifier(3 classes, 8x8 pixels)"


def test_a_prediction_names_the_classes(saved: Path) -> None:
    classifier = isnas.load_classifier(saved)
    one = classifier(picture(1))
    (same,) = classifier([picture(1)])
    assert np.array_equal(one.probabilities, same.probabilities)
    assert one.probabilities.sum() == pytest.approx(1)
    assert one.label == classifier.classes[one.index] == one.top(1)[0][0]
    assert one.probability == max(one.probabilities) == one.top(1)[0][1]
    assert [p for _, p in one.top(9)] == sorted(one.probabilities, reverse=True)
    assert repr(one) == f"Prediction({one.label!r}, {one.probability:.4f})"


def test_batches_change_nothing_but_rounding(saved: Path) -> None:
    classifier = isnas.load_classifier(saved)
    images = [picture(i, (9, 11)) for i in range(7)]
    whole, parts = (list(classifier.iterate(images, batch_size=n)) for n in (7, 2))
    for a, b in zip(whole, parts, strict=True):
        assert np.allclose(a.probabilities, b.probabilities, atol=1e-6)


def test_an_unreadable_image_is_named_and_the_others_go_on(saved: Path, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "good.png")
    classifier = isnas.load_classifier(saved)
    paths = [tmp_path / "none.png", tmp_path / "good.png", tmp_path / "none.jpg"]
    first, second, third = classifier.iterate(paths)
    assert "none.png" in str(first) and "none.jpg" in str(third)
    assert second.label in classifier.classes
    with pytest.raises(isnas.UserError, match=r"2 images failed: .*none\.png.*none\.jpg"):
        classifier(paths)


def test_no_images_give_no_predictions(saved: Path) -> None:
    assert isnas.load_classifier(saved)([]) == []


def test_a_network_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    """Before there were tasks: nothing of these, nor of crops, and the space beside the genotype."""
    path = save(tmp_path / "network.pt", {"name": "a", "train": 9, "test": 9, **describe()})
    description = json.loads(path.with_suffix(".json").read_text())
    cell = [
        [["nor_conv_3x3", 0]],
        [["nor_conv_1x1", 0], ["skip_connect", 1]],
        [["avg_pool_3x3", 0], ["nor_conv_3x3", 1], ["nor_conv_1x1", 2]],
    ]
    description["genotype"] = {"cell": {"inputs": 1, "nodes": cell, "concat": [3]}}
    description["space"] = {
        "primitives": list(isnas.NASBENCH201_SPACE.primitives),
        "nodes": 3,
        "inputs": 1,
        "kinds": ["cell"],
        "one_per_edge": True,
        "output": [3],
    }
    now = isnas.load_classifier(path)(picture(1))
    path.with_suffix(".json").write_text(json.dumps(description))
    assert np.array_equal(isnas.load_classifier(path)(picture(1)).probabilities, now.probabilities)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "does not say how images are prepared"),
        (describe(classes=2), "3 classes, got 2 names"),
        (describe(mean=[0.5], std=[0.5]), "3 channels, they are prepared with 1"),
        (describe(std=[0.5] * 3, mean=[0.5]), "std must be"),
        ({**describe(), "classes": "abc"}, "classes must be a list"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(data: dict | None, words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "network.pt", data)
    with pytest.raises(isnas.UserError, match=words) as caught:
        isnas.load_classifier(path)
    assert "network.json" in str(caught.value)


def test_a_folder_without_a_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        isnas.UserError, match=r"holds no trained network \(yet\): there is no network\.pt in it"
    ):
        isnas.load_classifier(tmp_path)


def test_weights_that_are_no_numbers_are_said(saved: Path, tmp_path: Path) -> None:
    state = torch.load(saved, weights_only=True)
    state["classifier.bias"].fill_(float("nan"))
    shutil.copy(saved.with_suffix(".json"), tmp_path / "bad.json")
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(isnas.UserError, match="no finite scores"):
        isnas.load_classifier(tmp_path / "bad.pt")(picture(1))
