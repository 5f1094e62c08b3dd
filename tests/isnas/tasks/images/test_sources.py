"""Data sets load as described, and complain in one clear line."""

import pickle
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from pictures import damage, make_folder, picture, refusal, small_dataset
from PIL import Image
from sklearn.datasets import load_digits

from isnas.runtime.errors import UserError
from isnas.tasks.images import Augmentation, Batches, LazyImages, load_dataset


def test_digits_are_all_of_scikit_learns_divided_once_and_for_all():
    dataset = load_dataset("digits")
    assert dataset.train_images.shape == (1437, 1, 8, 8) and dataset.test_images.shape[0] == 360
    assert dataset.train_images.dtype == torch.uint8 and dataset.train_labels.dtype == torch.int64
    assert (dataset.channels, dataset.size) == (1, (8, 8))
    assert dataset.classes == tuple("0123456789")
    assert not dataset.flip and dataset.cutout == 0
    assert dataset.augmentation() == Augmentation(padding=1, flip=False, cutout=0)
    ours = torch.cat([dataset.train_images, dataset.test_images]).flatten(1)
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert ours.max() == 255
    original = load_digits()
    rows = np.column_stack([ours.double().mul(16 / 255).round().numpy(), labels.numpy()])
    expected = np.column_stack([original.data, original.target])
    assert np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    shares = torch.bincount(dataset.test_labels) / torch.bincount(labels)
    assert ((shares - 0.2).abs() < 0.005).all()
    again = load_dataset("digits")
    assert torch.equal(dataset.train_images, again.train_images)


def test_mean_and_std_are_those_of_the_training_images():
    dataset = load_dataset("digits")
    values = dataset.train_images.double() / 255
    assert dataset.mean == pytest.approx([values.mean().item()], rel=1e-12)
    assert dataset.std == pytest.approx([values.std(correction=0).item()], rel=1e-12)


def test_to_moves_images_and_labels():
    moved = small_dataset().to("meta")
    assert {
        each.device.type
        for each in (
            moved.train_images,
            moved.train_labels,
            moved.test_images,
            moved.test_labels,
        )
    } == {"meta"}


def test_missing_cifar_names_the_option(tmp_path):
    message = refusal("cifar10", root=tmp_path)
    assert "--download" in message and str(tmp_path / "cifar-10-batches-py") in message
    assert "not there" in message


def test_damaged_cifar_says_so(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"nonsense")
    assert "damaged or incomplete" in refusal("cifar100", root=tmp_path)


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), RuntimeError("File not found or corrupted.")]
)
def test_failed_download_is_one_clear_line(tmp_path, monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    message = refusal("cifar10", root=tmp_path, download=True)
    assert message.startswith("could not download cifar10") and str(error) in message


@pytest.mark.parametrize(
    ("name", "folder", "parts", "key", "meta", "names"),
    [
        (
            "cifar10",
            "cifar-10-batches-py",
            [f"data_batch_{i}" for i in range(1, 6)],
            "labels",
            "batches.meta",
            "label_names",
        ),
        ("cifar100", "cifar-100-python", ["train"], "fine_labels", "meta", "fine_label_names"),
    ],
)
def test_cifar_is_read_from_torchvisions_files(
    tmp_path, monkeypatch, name, folder, parts, key, meta, names
):
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    place = tmp_path / folder
    place.mkdir()
    rng = np.random.default_rng(0)
    written = {}
    for part in [*parts, "test" if name == "cifar100" else "test_batch"]:
        written[part] = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (place / part).write_bytes(pickle.dumps({"data": written[part], key: [0, 1, 1, 0]}))
    (place / meta).write_bytes(pickle.dumps({names: ["cat", "dog"]}))
    dataset = load_dataset(name, root=tmp_path)
    expected = np.concatenate([written[part] for part in parts]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train_images.numpy(), expected)
    assert dataset.train_images.is_contiguous()
    assert dataset.train_labels.tolist() == [0, 1, 1, 0] * len(parts)
    assert len(dataset.test_images) == len(dataset.test_labels) == 4
    assert dataset.classes == ("cat", "dog") and dataset.name == name
    assert dataset.augmentation() == Augmentation(padding=4, flip=True, cutout=16)
    assert dataset.augmentation(cutout=0).cutout == 0
    values = dataset.train_images.double() / 255
    assert dataset.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-12)


def test_size_of_named_data_sets_is_fixed():
    assert load_dataset("digits", image_size=8).size == (8, 8)
    assert "8 x 8, got 16" in refusal("digits", image_size=16)


def test_folder_is_read_as_it_is(tmp_path):
    make_folder(tmp_path)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ("cat", "dog") and dataset.cutout == 4 and dataset.flip
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train_labels.dtype == torch.int64
    for i, seed in enumerate([0, 1, 2, 10, 11, 12]):
        expected = torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1)
        assert torch.equal(dataset.train_images[i], expected)
    expected = torch.from_numpy(np.array(picture(112))).permute(2, 0, 1)
    assert torch.equal(dataset.test_images[5], expected)


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (("train", "val"), 100),
        (("train", "validation"), 100),
        (("train", "valid"), 100),
        (("train", "val", "test"), 200),
    ],
)
def test_held_out_folder_is_test_or_else_validation(tmp_path, splits, used):
    dataset = load_dataset(str(make_folder(tmp_path, splits=splits)))
    expected = torch.from_numpy(np.array(picture(used))).permute(2, 0, 1)
    assert torch.equal(dataset.test_images[0], expected)


def test_default_size_is_the_median_shorter_side_up_to_64(tmp_path):
    make_folder(tmp_path / "small", size=(12, 10))
    assert load_dataset(str(tmp_path / "small")).size == (10, 10)
    make_folder(tmp_path / "large", size=(70, 90), each=1)
    assert load_dataset(str(tmp_path / "large")).size == (64, 64)
    assert load_dataset(str(tmp_path / "large"), image_size=20).size == (20, 20)


def test_lazily_decoded_equals_in_memory(tmp_path):
    make_folder(tmp_path, each=20, size=(12, 9))
    eager = load_dataset(str(tmp_path), image_size=6)
    lazy = load_dataset(str(tmp_path), image_size=6, memory_budget=80 * 3 * 36 - 1)
    assert isinstance(eager.train_images, torch.Tensor)
    assert isinstance(lazy.train_images, LazyImages) and isinstance(lazy.test_images, LazyImages)
    assert load_dataset(
        str(tmp_path), image_size=6, memory_budget=80 * 3 * 36
    ).train_images.shape == (40, 3, 6, 6)
    assert lazy.train_images.shape == eager.train_images.shape
    assert (lazy.mean, lazy.std) == (eager.mean, eager.std)
    for options in ({"split": "train"}, {"split": "test"}):
        batches = [Batches(each, batch_size=7, **options).epoch(0) for each in (eager, lazy)]
        for (x, y), (lazy_x, lazy_y) in zip(*batches, strict=True):
            assert torch.equal(x, lazy_x) and torch.equal(y, lazy_y)


def test_constant_images_are_harmless(tmp_path):
    for split in ("train", "test"):
        for name in ("black", "dark"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "0.png")
    dataset = load_dataset(str(tmp_path))
    assert dataset.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("damage", ["nonsense", "truncated"])
@pytest.mark.parametrize("budget", [0, 2**30])
def test_unreadable_image_is_named(tmp_path, damage, budget):
    make_folder(tmp_path, each=4, size=(40, 40))
    path = tmp_path / "train" / "dog" / "2.png"
    path.write_bytes(b"nonsense" if damage == "nonsense" else path.read_bytes()[:1500])
    for image_size in (None, 40):
        message = refusal(tmp_path, image_size=image_size, memory_budget=budget)
        assert message.startswith("not a readable image") and str(path) in message


def test_unreadable_image_of_a_lazy_folder_is_named_when_it_is_used(tmp_path):
    lazy = load_dataset(str(make_folder(tmp_path)), memory_budget=0)
    path = tmp_path / "test" / "cat" / "1.png"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"not a readable image: .*test.cat.1\.png"):
        list(Batches(lazy, "test", batch_size=2).epoch(0))


def test_unknown_name_lists_the_known_ones(tmp_path):
    message = refusal("cifar11")
    assert "no such data set or directory: cifar11" in message
    assert "digits, cifar10, cifar100" in message and "train/CLASS/*" in message
    (tmp_path / "images.tar.gz").write_bytes(b"")
    assert refusal(tmp_path / "images.tar.gz").startswith("not a directory")


def test_folders_that_are_not_as_described_are_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"no folder {empty / 'train'}" in refusal(empty)

    alone = make_folder(tmp_path / "alone", splits=("train",))
    message = refusal(alone)
    assert f"no held-out images in {alone}" in message and "test/, val/, validation/" in message
    assert "--split 0.8" in message

    flat = make_folder(tmp_path / "flat", splits=("train",))
    (flat / "val").mkdir()
    assert f"no classes in {flat / 'val'}" in refusal(flat)

    hollow = make_folder(tmp_path / "hollow")
    for path in (hollow / "test" / "dog").iterdir():
        path.rename(path.with_suffix(".txt"))
    message = refusal(hollow)
    assert f"no images in {hollow / 'test' / 'dog'}" in message and ".png" in message
    assert "found 3 files of other kinds (3 .txt)" in message

    other = make_folder(tmp_path / "other", splits=("train",))
    make_folder(other, splits=("val",), classes=("cat", "fox"))
    message = refusal(other)
    assert str(other / "train") in message and str(other / "val") in message
    assert message.endswith("val lacks dog; train lacks fox")

    single = make_folder(tmp_path / "single", classes=("cat",))
    assert "one class only (cat)" in refusal(single)


@pytest.mark.parametrize("budget", [0, 2**30])
def test_for_a_test_no_training_image_is_read(tmp_path, budget):
    make_folder(tmp_path)
    whole = load_dataset(str(tmp_path), memory_budget=budget)
    for path in (tmp_path / "train").glob("*/*"):
        path.write_bytes(b"nonsense")
    test = load_dataset(str(tmp_path), image_size=8, memory_budget=budget, test_only=True)
    assert len(test.train_images) == len(test.train_labels) == 0
    assert test.classes == whole.classes and test.size == (8, 8) and test.channels == 3
    assert (test.mean, test.std) == ((0, 0, 0), (1, 1, 1))
    for (x, y), (other_x, other_y) in zip(
        Batches(test, "test", batch_size=6, augment=False).epoch(0),
        Batches(whole, "test", batch_size=6, augment=False).epoch(0),
        strict=True,
    ):
        mean, std = (torch.tensor(each)[:, None, None] for each in (whole.mean, whole.std))
        assert torch.equal((x - mean) / std, other_x) and torch.equal(y, other_y)


def test_a_test_needs_the_training_folder_for_the_default_size_only(tmp_path):
    make_folder(tmp_path, splits=("val",), size=(12, 10))
    assert load_dataset(str(tmp_path), image_size=9, test_only=True).size == (9, 9)
    assert f"no folder {tmp_path / 'train'}" in refusal(tmp_path, test_only=True)
    make_folder(tmp_path, splits=("train",), size=(7, 9))
    assert load_dataset(str(tmp_path), test_only=True).size == (7, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "resized"}, "crop 'resized' is for folders of images, got digits"),
        ({"crop": "random"}, "crop must be one of pad, resized, got 'random'"),
        ({"colour_jitter": 0.4}, "colour_jitter=0.4 needs crop='resized', got crop='pad'"),
        ({"corrupt": "ignore"}, "corrupt must be one of refuse, skip, got 'ignore'"),
    ],
)
def test_what_digits_cannot_be(options, message):
    assert message in refusal("digits", **options)


def test_corrupt_images_are_left_out(tmp_path):
    make_folder(tmp_path, size=(9, 9), each=4)
    whole = load_dataset(str(tmp_path))
    bad = [
        damage(tmp_path / "train" / "cat" / "1.png"),
        damage(tmp_path / "test" / "dog" / "3.png"),
    ]
    with pytest.warns(UserWarning) as caught:
        dataset = load_dataset(str(tmp_path), corrupt="skip")
    assert len(caught) == 2
    for path, each in zip(bad, caught, strict=True):
        assert f"not a readable image: {path} (" in str(each.message)
        assert str(each.message).endswith("): left out")
    assert torch.equal(dataset.train_images, whole.train_images[[0, 2, 3, 4, 5, 6, 7]])
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(dataset.test_images, whole.test_images[:7])
    assert dataset.test_labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    values = dataset.train_images.double() / 255
    assert dataset.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-12)


def test_skipping_changes_nothing_where_all_images_are_readable(tmp_path):
    make_folder(tmp_path)
    for budget in (0, 2**30):
        a, b = (
            load_dataset(str(tmp_path), memory_budget=budget, corrupt=corrupt)
            for corrupt in ("refuse", "skip")
        )
        order = torch.tensor([4, 1, 5])
        assert torch.equal(a.train_images[order], b.train_images[order])
        assert torch.equal(a.train_labels, b.train_labels) and a.mean == b.mean


def test_a_class_without_readable_images_is_refused(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "test" / "dog").iterdir():
        damage(path)
    with pytest.warns(UserWarning, match="left out"):
        message = refusal(tmp_path, corrupt="skip")
    assert message == f"no readable images in {tmp_path / 'test' / 'dog'}"
    lazy = load_dataset(str(tmp_path), memory_budget=0, corrupt="skip")
    with pytest.raises(UserError, match=r"no readable image .* stands in for .*dog.1\.png"):
        lazy.test_images[torch.tensor([4])]


@pytest.mark.parametrize("budget", [0, 2**30])
def test_a_file_that_the_system_cannot_read_is_never_skipped(tmp_path, budget):
    make_folder(tmp_path)
    path = tmp_path / "train" / "cat" / "1.png"
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    message = refusal(tmp_path, image_size=8, memory_budget=budget, corrupt="skip")
    assert f"1 broken link in {tmp_path / 'train'}: {path} (to {tmp_path / 'gone'})" in message


def test_the_default_size_is_that_of_the_readable_images(tmp_path):
    make_folder(tmp_path, size=(9, 9))
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat.0\.png \(empty file\): left out"):
        assert load_dataset(str(tmp_path), corrupt="skip").size == (9, 9)
    for path in Path(tmp_path).glob("*/*/*"):
        path.write_bytes(b"")
    assert "none of the images that were tried can be read" in refusal(tmp_path, corrupt="skip")


@pytest.mark.parametrize("image_size", [0, -3])
def test_image_size_is_positive(image_size):
    assert f"got {image_size}" in refusal("digits", image_size=image_size)


def test_old_files_spelling_of_dtypes_is_not_a_warning(tmp_path, monkeypatch):
    def warn(self, root, train, download=False):
        warnings.warn("dtype(): align should be passed as a boolean", stacklevel=1)
        raise RuntimeError("not found")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", warn)
    assert "--download" in refusal("cifar10", root=tmp_path)


# Options of folders


def test_grey_images_have_one_channel(tmp_path):
    make_folder(tmp_path, size=(9, 9))
    for budget in (0, 2**30):
        rgb, grey = (
            load_dataset(str(tmp_path), colour=colour, memory_budget=budget)
            for colour in ("rgb", "grey")
        )
        assert grey.channels == 1 and len(grey.mean) == len(grey.std) == 1
        everything = torch.arange(6)
        for i, pixels in enumerate(rgb.train_images[everything]):
            expected = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L")
            assert np.array_equal(grey.train_images[everything][i, 0], expected)
        values = grey.train_images[everything].double() / 255
        assert grey.mean == pytest.approx([values.mean().item()], rel=1e-12)
        batch, _ = next(Batches(grey, batch_size=4).epoch(0))
        assert batch.shape == (4, 1, 9, 9)
    assert load_dataset(str(tmp_path), image_size=9, colour="grey", test_only=True).channels == 1


def test_random_parts_of_grey_images_are_varied(tmp_path):
    make_folder(tmp_path, size=(40, 30))
    options = {"image_size": 8, "crop": "resized", "colour": "grey"}
    images = load_dataset(str(tmp_path), colour_jitter=0.4, **options).train_images
    plain, varied = (images.parts(torch.arange(6), jitter, 3) for jitter in (0.0, 0.4))
    assert plain.shape == varied.shape == (6, 1, 8, 8) and not torch.equal(plain, varied)


def test_flips_can_be_switched_off(tmp_path):
    make_folder(tmp_path)
    assert load_dataset(str(tmp_path)).augmentation().flip
    assert not load_dataset(str(tmp_path)).augmentation(flip=False).flip
    assert not load_dataset(str(tmp_path), flip=False).augmentation().flip
    assert not load_dataset(str(tmp_path), flip=False).augmentation(flip=True).flip
    assert not load_dataset("digits", flip=True).augmentation(flip=True).flip


# Division


def contents(dataset, split):
    images = getattr(dataset, f"{split}_images")[
        torch.arange(len(getattr(dataset, f"{split}_labels")))
    ]
    labels = getattr(dataset, f"{split}_labels")
    return {(int(y), x.numpy().tobytes()) for x, y in zip(images, labels, strict=True)}


@pytest.mark.parametrize("layout", ["train", "."])
@pytest.mark.parametrize("budget", [0, 2**30])
def test_a_folder_without_test_images_is_divided(tmp_path, layout, budget):
    made = make_folder(tmp_path / "made", splits=(layout,), each=10)
    options = {"split": 0.8, "memory_budget": budget}
    dataset = load_dataset(str(made), **options)
    assert dataset.train_labels.tolist() == [0] * 8 + [1] * 8
    assert dataset.test_labels.tolist() == [0] * 2 + [1] * 2
    train, test = contents(dataset, "train"), contents(dataset, "test")
    assert len(train) == 16 and len(test) == 4 and not train & test
    assert dataset.classes == ("cat", "dog")
    fingerprint = dataset.fingerprint()

    moved = made.rename(tmp_path / "moved")
    again = load_dataset(str(moved), **options)
    assert torch.equal(again.test_labels, dataset.test_labels)
    assert contents(again, "test") == test and again.fingerprint() == fingerprint
    other = load_dataset(str(moved), split_seed=1, **options)
    assert contents(other, "test") != test and other.fingerprint() != fingerprint
    only = load_dataset(str(moved), test_only=True, image_size=8, **options)
    assert contents(only, "test") == test and len(only.train_labels) == 0


def test_how_to_divide_a_folder_is_said(tmp_path):
    flat = make_folder(tmp_path / "flat", splits=(".",))
    assert "--split 0.8" in refusal(flat)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "--split" not in refusal(empty)
    whole = make_folder(tmp_path / "whole")
    message = refusal(whole, split=0.8)
    assert f"there is {whole / 'test'}" in message
    assert "split 0.8 is for folders of images, got digits" in refusal("digits", split=0.8)
    for split in (0.0, 1.0, -1.0, 80.0, float("nan")):
        assert f"got {split:g}" in refusal(flat, split=split)
    for path in list((flat / "dog").iterdir())[1:]:
        path.unlink()
    assert "class dog of" in refusal(flat, split=0.8)


# What is left out


def test_what_is_left_out_is_said_in_one_line(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / ".thumbs").mkdir()
    picture(0).save(tmp_path / "train" / ".thumbs" / "0.png")
    (tmp_path / "test" / ".DS_Store").write_bytes(b"")
    for name in ("a.txt", "b.TXT", "c.heic", "README"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"")
    picture(0).save(tmp_path / "train" / "beside.png")
    whole = "left out 2 hidden or system entries, 4 files of other kinds (2 .txt, "
    with pytest.warns(UserWarning) as caught:
        dataset = load_dataset(str(tmp_path))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith(f"{tmp_path}: {whole}") and "1 .heic" in message
    assert "1 without an ending" in message and "1 image outside the classes' folders" in message
    assert ".gif .jfif" in message and "\n" not in message
    assert dataset.classes == ("cat", "dog") and len(dataset.train_labels) == 6
