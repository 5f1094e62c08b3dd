"""Exhibits of the test of a classifier: scikit-learn's confusion matrix, and the wrong answers it was surest of."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import damage, make_folder, small_dataset
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import nn

import isnas
from isnas.runs.records import RunRecord
from isnas.tasks.base import OptimizerOptions
from isnas.tasks.exhibits import Matrix, Pictures, Table
from isnas.tasks.images import load_dataset
from isnas.tasks.images.examination import LARGEST_PICTURE, MOST_CLASSES, WRONG
from isnas.tasks.registry import TASKS

IMAGES = TASKS["images"]


class Answers(nn.Module):
    """Stands for a network: its logits are fixed, in the order of the images that it is given."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.seen = logits, 0

    def forward(self, x):
        self.seen += len(x)
        return self.logits[self.seen - len(x) : self.seen]


def examined(n=50, classes=4, size=8, seed=0, channels=3):
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=drawn)
    labels = torch.randint(classes, (n,), generator=drawn)
    logits = 3 * torch.randn(n, classes, generator=drawn)
    data = replace(
        small_dataset(),
        test_images=images,
        test_labels=labels,
        classes=tuple(f"class {i}" for i in range(classes)),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    feed = IMAGES.test_feed(data, OptimizerOptions(batch_size=4), torch.device("cpu"))
    return data, logits, *IMAGES.examine(Answers(logits), data, feed), feed


def pixels(png):
    array = np.asarray(Image.open(io.BytesIO(png)))
    return np.atleast_3d(array).transpose(2, 0, 1)


def test_the_matrix_is_scikit_learns_and_the_test_as_without():
    data, logits, found, (matrix, table, _), feed = examined()
    assert found == IMAGES.test(Answers(logits), feed)
    expected = confusion_matrix(data.test_labels, logits.argmax(1), labels=range(4))
    assert isinstance(matrix, Matrix) and np.array_equal(matrix.counts, expected)
    assert isinstance(table, Table)
    for i, row in enumerate(table.rows):
        assert row[1:3] == (str(expected[i].sum()), str(expected[i, i]))
        assert row[3] == f"{100 * expected[i, i] / expected[i].sum():.1f} %"
    right = sum(int(row[2]) for row in table.rows)
    assert right / 50 == pytest.approx(found["test_accuracy"])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_surest_wrong_answers_are_shown_with_the_pixels_of_their_images(channels):
    data, logits, _, (*_, shown), _ = examined(channels=channels)
    assert isinstance(shown, Pictures) and len(shown.items) == WRONG
    probability, answer = logits.double().softmax(1).max(1)
    wrong = [i for i in range(50) if answer[i] != data.test_labels[i]]
    wrong.sort(key=lambda i: -probability[i])
    for i, (png, text) in zip(wrong, shown.items, strict=False):
        assert np.array_equal(pixels(png), data.test_images[i].numpy())
        assert text == (
            f"class {int(data.test_labels[i])}, taken for class {int(answer[i])} "
            f"({100 * probability[i]:.1f} %)"
        )


def test_many_classes_give_the_worst_ones_and_a_small_file():
    _, _, found, shown, _ = examined(n=600, classes=200, size=200)
    confusions, table, pictures = shown
    assert isinstance(confusions, Table) and len(confusions.rows) <= MOST_CLASSES
    assert len(table.rows) == MOST_CLASSES and table.rows[0][3] == "0.0 %"
    assert pixels(pictures.items[0][0]).shape[1:] == (LARGEST_PICTURE, LARGEST_PICTURE)
    assert found["test_accuracy"] < 0.1


def test_where_all_is_right_there_is_nothing_wrong_to_show():
    data, *_ = examined()
    logits = 9.0 * nn.functional.one_hot(data.test_labels, 4)
    feed = IMAGES.test_feed(data, OptimizerOptions(batch_size=64), torch.device("cpu"))
    found, shown = IMAGES.examine(Answers(logits), data, feed)
    assert found["test_accuracy"] == 1
    assert not any(isinstance(each, Pictures) for each in shown)


def test_files_are_named_also_when_some_were_left_out(tmp_path):
    make_folder(tmp_path, each=4)
    damage(tmp_path / "test" / "cat" / "1.png")
    with pytest.warns(UserWarning, match="left out"):
        data = load_dataset(str(tmp_path), corrupt="skip")
    logits = torch.full((7, 2), 0.0)
    logits[range(7), 1 - data.test_labels] = torch.arange(1.0, 8.0)  # all wrong, the last surest
    feed = IMAGES.test_feed(data, OptimizerOptions(batch_size=4), torch.device("cpu"))
    *_, shown = IMAGES.examine(Answers(logits), data, feed)[1]
    named = [text.partition("): ")[2] for _, text in shown.items]
    expected = [*(f"cat/{i}.png" for i in (0, 2, 3)), *(f"dog/{i}.png" for i in range(4))]
    assert named == expected[::-1]


def test_a_run_keeps_it_and_a_damaged_file_is_named(tmp_path):
    out = tmp_path / "run"
    small = {"channels": 2, "cells": 3, "batch_size": 256, "device": "cpu"}
    isnas.evaluate("ISTA_onestage", out=out, epochs=1, **small)
    shown = RunRecord(out).exhibits["evaluate"]
    (matrix,) = [each for each in shown if isinstance(each, Matrix)]
    right = sum(matrix.counts[i][i] for i in range(10))
    results = json.loads((out / "results.json").read_text())["evaluate"]
    assert right / 360 == pytest.approx(results["test_accuracy"])
    path = out / "examination-evaluate.json"
    assert path.stat().st_size < 20_000
    path.write_text('[{"kind": "table"}]')
    with pytest.raises(isnas.UserError, match=str(path)):
        RunRecord(out).exhibits  # noqa: B018
    path.unlink()
    assert RunRecord(out).exhibits == {}
