"""Images for a network that is there: prepared as its test saw them, from whatever they come as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photograph, photograph_folder, picture
from PIL import Image

from isnas.runtime.errors import UserError
from isnas.tasks.images import Batches, Preparation, load_dataset
from isnas.tasks.registry import TASKS

TASK = TASKS["images"]


def recorded(dataset, options=None) -> Preparation:
    options = options or TASK.data_options()
    return Preparation.recorded(TASK.describe(dataset, options), "network.json")


def odd_files(root: Path) -> None:
    """Put images of many kinds into one class of the test folder."""
    tagged = Image.Exif()
    tagged[0x0112] = 6
    photograph(1, (40, 30)).save(root / "turned.jpg", exif=tagged, quality=95)
    picture(2, (21, 33), "RGBA").save(root / "transparent.png")
    picture(3, (24, 24), "L").save(root / "grey.png")
    picture(4, (25, 20), "P").save(root / "palette.png", transparency=3)
    picture(5, (30, 40), "CMYK").save(root / "print.jpg")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(root / "deep.png")
    photograph(6, (400, 300)).save(root / "large.jpg")


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_a_folder_is_prepared_as_the_test_saw_it(crop: str, colour: str, tmp_path: Path) -> None:
    photograph_folder(tmp_path, [(40, 30), (90, 120)], "jpg")
    odd_files(tmp_path / "val" / "dog")
    dataset = load_dataset(str(tmp_path), image_size=16, crop=crop, colour=colour)
    prepare = recorded(dataset, TASK.data_options(crop=crop, colour=colour))
    paths = sorted(str(path) for path in tmp_path.glob("val/*/*"))
    ((expected, _),) = Batches(dataset, "test", batch_size=99).epoch(0)
    assert expected.shape == (11, 1 if colour == "grey" else 3, 16, 16)
    assert torch.equal(prepare(paths), expected)
    assert torch.equal(prepare(Path(paths[0])), expected[:1])


def test_what_was_no_folder_is_prepared_likewise() -> None:
    dataset = load_dataset("digits")
    prepare = recorded(dataset)
    ((expected, _),) = Batches(dataset, "test", batch_size=360).epoch(0)
    pixels = dataset.test_images
    assert torch.equal(prepare(pixels), expected)
    assert torch.equal(prepare(pixels.float() / 255), expected)
    assert torch.equal(prepare(pixels.numpy().transpose(0, 2, 3, 1)), expected)
    assert torch.equal(prepare([Image.fromarray(each[0].numpy()) for each in pixels]), expected)


@pytest.mark.parametrize("std", [[0.0], [-1.0], ["a"], [True], [float("nan")], [0.1, 0.2], "a"])
def test_what_cannot_scale_images_is_not_taken_for_bad_weights(std: object) -> None:
    with pytest.raises(UserError, match=r"network\.json: std must be "):
        TASK.prepared_as(load_dataset("digits"), {"mean": [0.5], "std": std}, Path("network.pt"))


PREPARE = Preparation(6, "pad", "rgb", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_one_image_is_the_same_in_every_form(mode: str) -> None:
    image = picture(7, (11, 8), mode)
    array = np.asarray(image)
    tensor = torch.tensor(array)
    tensor = tensor if array.ndim == 2 else tensor.permute(2, 0, 1)
    expected = PREPARE(image)
    assert expected.shape == (1, 3, 6, 6)
    for form in (array, array / 255, (array / 255).astype(np.float32), tensor, tensor / 255):
        assert torch.equal(PREPARE(form), expected)
        assert torch.equal(PREPARE([form, form])[1:], expected)


def test_the_formula_is_the_usual_one() -> None:
    array = np.asarray(picture(8, (6, 6)))
    expected = (array / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.1]
    assert np.allclose(PREPARE(array)[0].permute(1, 2, 0), expected, atol=1e-5)


def test_the_callers_image_is_left_as_it_was(tmp_path: Path) -> None:
    photograph(9, (640, 480)).save(tmp_path / "a.jpg")
    prepare = Preparation(16, "resized", "rgb", (0.0,) * 3, (1.0,) * 3)
    with Image.open(tmp_path / "a.jpg") as image:
        prepare(image)
        assert image.size == (640, 480)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 3, 4, 5, 6), np.uint8), "(H, W) or (H, W, C)"),
        (np.zeros((3, 8, 8), np.uint8), "got (3, 8, 8)"),
        (torch.zeros(8, 8, 3), "(H, W) or (C, H, W)"),
        (np.zeros((0, 8), np.uint8), "got (0, 8)"),
        (np.full((8, 8), 2.0), "from 0 to 1"),
        (np.full((8, 8), np.nan), "from 0 to 1"),
        (np.zeros((8, 8), np.int64), "got int64"),
        (7, "got int"),
        ([None], "image 0: expected a path"),
        ("nowhere.png", "nowhere.png (No such file or directory)"),
    ],
)
def test_what_is_no_image_is_one_clear_line(given: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        PREPARE(given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_all_that_fail_are_named(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 images failed: .*none\.png.*; .*bad\.png"):
        PREPARE([tmp_path / "none.png", tmp_path / "good.png", tmp_path / "bad.png"])


SAVED = {"size": [8, 8], "mean": [0.5], "std": [0.2]}


@pytest.mark.parametrize(
    "change",
    [
        {"size": [8, 9]},
        {"size": 8},
        {"size": [10**9, 10**9]},
        {"size": [True, True]},
        {"crop": "other"},
        {"mean": [float("nan")]},
        {"mean": [0.1, 0.2]},
        {"mean": ["a"]},
        {"std": [0.0]},
        {"std": [0.1, 0.1, 0.1]},
        {"std": None},
    ],
)
def test_a_damaged_record_is_one_clear_line(change: dict) -> None:
    assert Preparation.recorded(SAVED, "n.json").channels == 1
    with pytest.raises(UserError, match=r"n\.json: .* must be"):
        Preparation.recorded({**SAVED, **change}, "n.json")
