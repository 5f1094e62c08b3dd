"""Validation images: a share of each class, always the same ones, that no step of a training sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pictures import damage, make_folder

import isnas
from isnas import UserError, load_dataset
from isnas.runs.records import RunRecord
from isnas.tasks.images import LazyImages
from isnas.tasks.images.holding_out import hold_out

SMALL = {"channels": 2, "cells": 3, "batch_size": 128, "device": "cpu"}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_each_class_gives_its_share_and_nothing_is_lost(fraction: float) -> None:
    whole, part = load_dataset("digits"), load_dataset("digits", validate=fraction)
    before, after = (each.train_labels.bincount() for each in (whole, part))
    assert part.valid_labels is not None and part.valid_images is not None
    held = part.valid_labels.bincount(minlength=10)
    assert torch.equal(before, after + held)
    for n, out in zip(before.tolist(), held.tolist(), strict=True):
        assert out == min(max(int(fraction * n + 0.5), 1), n - 1)

    def rows(images: torch.Tensor, labels: torch.Tensor) -> list[bytes]:
        return sorted(
            x.numpy().tobytes() + bytes([y]) for x, y in zip(images, labels.tolist(), strict=True)
        )

    together = rows(part.train_images, part.train_labels)
    together += rows(part.valid_images, part.valid_labels)
    assert sorted(together) == rows(whole.train_images, whole.train_labels)
    assert torch.equal(part.test_images, whole.test_images)


def test_they_depend_on_the_seed_and_statistics_are_those_of_what_is_left() -> None:
    one, same = (load_dataset("digits", validate=0.2) for _ in range(2))
    assert torch.equal(one.valid_images, same.valid_images)
    other = load_dataset("digits", validate=0.2, split_seed=1)
    assert not torch.equal(one.valid_images, other.valid_images)
    pixels = one.train_images.double() / 255
    assert one.mean[0] == pytest.approx(float(pixels.mean()), rel=1e-12)
    assert one.std[0] == pytest.approx(float(pixels.std(correction=0)), rel=1e-12)
    assert len({one.fingerprint(), other.fingerprint(), load_dataset("digits").fingerprint()}) == 3


def test_images_that_are_decoded_when_asked_keep_their_stand_ins(tmp_path: Path) -> None:
    make_folder(tmp_path, each=6)
    for name in ("cat/1.png", "dog/4.png"):
        damage(tmp_path / "train" / name)
    options = dict(image_size=8, memory_budget=1, corrupt="skip")  # noqa: C408
    with pytest.warns(UserWarning, match="stands in"):
        data = load_dataset(str(tmp_path), validate=0.5, **options)
        for images, labels in (
            (data.train_images, data.train_labels),
            (data.valid_images, data.valid_labels),
        ):
            assert isinstance(images, LazyImages) and labels.tolist() == [0] * 3 + [1] * 3
            assert images.starts == (0, 3)
            images[torch.arange(6)]
    assert not set(data.train_images.paths) & set(data.valid_images.paths)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="validate must be"):
        hold_out(load_dataset("digits"), fraction)


def test_single_images_are_not_taken_from_their_class(tmp_path: Path) -> None:
    make_folder(tmp_path, each=1)
    with pytest.raises(UserError, match="has an image to spare"):
        load_dataset(str(tmp_path), validate=0.5)


def test_a_training_is_tested_on_them_after_every_epoch_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    isnas.evaluate("ISTA_onestage", out=out, epochs=2, validate=0.25, **SMALL)
    record = RunRecord(out)
    epochs = record.epochs("evaluate")
    assert len(epochs["valid_accuracy"]) == len(epochs["valid_loss"]) == 2
    config = json.loads((out / "config.json").read_text())
    data = load_dataset("digits", validate=0.25)
    assert config["data"]["validate"] == 0.25 and config["data"]["valid"] == len(data.valid_labels)
    # the last epoch's is the network's that was saved
    network = isnas.load_network(out / "network.pt")
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (data.mean, data.std))
    with torch.no_grad():
        answers = network((data.valid_images / 255 - mean) / std).argmax(1)
    share = float((answers == data.valid_labels).double().mean())
    assert epochs["valid_accuracy"][-1] == pytest.approx(share)
    # a saved network needs none of it to be tested
    tested = isnas.commands.test_saved(out / "network.pt", device="cpu")
    assert tested["test_accuracy"] == record.results["evaluate"]["test_accuracy"]


def test_one_stage_training_is_tested_on_them_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    isnas.train(out=out, search_epochs=1, epochs=2, validate=0.1, **SMALL)
    epochs = RunRecord(out).epochs("search")
    assert epochs["phase"].tolist() == ["search", "training", "training"]
    known = epochs["valid_accuracy"] == epochs["valid_accuracy"]  # nan while it searches
    assert known.tolist() == [False, True, True]


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    isnas.evaluate("ISTA_onestage", out=tmp_path / "run", epochs=1, **SMALL)
    assert "valid_accuracy" not in RunRecord(tmp_path / "run").epochs("evaluate")
    with pytest.raises(UserError, match="validate must be below 1"):
        isnas.evaluate("ISTA_onestage", out=tmp_path / "other", validate=1.0, **SMALL)
