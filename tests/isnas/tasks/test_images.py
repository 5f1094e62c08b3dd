"""Data sets load as described, complain in one clear line, and give reproducible batches."""

import io
import os
import pickle
import random
import threading
import warnings
from itertools import chain
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms
from torchvision.transforms import functional as TF

from isnas.runtime.errors import UserError
from isnas.runtime.randomness import generator, seed_of
from isnas.tasks import images
from isnas.tasks.augmentation import Augmentation, normalise, random_part
from isnas.tasks.images import (
    Batches,
    Dataset,
    LazyImages,
    Paths,
    decode,
    load_dataset,
    split_indices,
)


def picture(seed, size=(8, 8), mode="RGB"):
    drawn = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(drawn).convert(mode)


def make_folder(root, *, splits=("train", "test"), classes=("cat", "dog"), each=3, size=(8, 8)):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                picture(100 * s + 10 * c + i, size).save(root / split / name / f"{i}.png")
    return root


def small_dataset(n=10, channels=1):
    # Each image is filled with its own number, so that it can be recognised in a batch.
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, channels, 8, 8)
    return Dataset(
        name="numbers",
        train_images=images,
        train_labels=torch.arange(n),
        test_images=images[: n // 2],
        test_labels=torch.arange(n // 2),
        classes=tuple(map(str, range(n))),
        mean=(0.25,) * channels,
        std=(0.5,) * channels,
    )


def refusal(name, **options):
    """Return the message of the UserError; it has one line."""
    with pytest.raises(UserError) as caught:
        load_dataset(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Digits


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


# CIFAR


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


# Folders


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


def test_larger_images_become_their_centred_square_shrunk_without_aliasing(tmp_path):
    # Stripes of one pixel turn grey when shrunk with antialiasing, and stay stripes without.
    striped = np.zeros((16, 48, 3), dtype=np.uint8)
    striped[:, 16:32:2] = 254
    Image.fromarray(striped).save(tmp_path / "wide.png")
    image = decode([str(tmp_path / "wide.png")], 4)[0].float()
    assert image.shape == (3, 4, 4)
    assert ((image - 127).abs() < 25).all()


def test_longer_side_is_cropped_without_resampling(tmp_path):
    tall = picture(0, (6, 11))
    tall.save(tmp_path / "tall.png")
    image = decode([str(tmp_path / "tall.png")], 6)[0]
    assert torch.equal(image, torch.from_numpy(np.array(tall)[2:8]).permute(2, 0, 1))


def encoded(image, **options):
    written = io.BytesIO()
    image.save(written, "PNG", **options)
    return written.getvalue()


def test_every_mode_becomes_rgb(tmp_path):
    grey = np.array([[0, 64], [128, 255]], dtype=np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.array([[255, 0], [255, 128]], dtype=np.uint8)
    palette = Image.fromarray(grey).convert("P")
    files = {
        "grey": encoded(Image.fromarray(grey)),
        "grey with alpha": encoded(Image.fromarray(np.dstack([grey, alpha]))),
        "rgba": encoded(Image.fromarray(np.dstack([rgb, alpha]))),
        "palette": encoded(palette),
        "palette with transparency": encoded(palette, transparency=bytes([0, 255])),
        "16 bits": encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
    }
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    for name, content in files.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        assert torch.equal(decode([str(tmp_path / f"{name}.png")], 2)[0], expected), name


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "float.tiff"
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(path)
    with pytest.raises(UserError, match=r"float\.tiff \(floating-point pixels"):
        decode([str(path)], 2)


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


def test_leaving_a_lazy_epoch_early_ends_its_thread(tmp_path):
    lazy = load_dataset(str(make_folder(tmp_path, each=20)), memory_budget=0)
    running = threading.active_count()
    batches = Batches(lazy, batch_size=4).epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == running


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

    flat = make_folder(tmp_path / "flat", splits=("train",))
    (flat / "val").mkdir()
    assert f"no classes in {flat / 'val'}" in refusal(flat)

    hollow = make_folder(tmp_path / "hollow")
    for path in (hollow / "test" / "dog").iterdir():
        path.rename(path.with_suffix(".txt"))
    message = refusal(hollow)
    assert f"no images in {hollow / 'test' / 'dog'}" in message and ".png" in message

    other = make_folder(tmp_path / "other", splits=("train",))
    make_folder(other, splits=("val",), classes=("cat", "fox"))
    message = refusal(other)
    assert str(other / "train") in message and str(other / "val") in message
    assert "dog, fox" in message

    single = make_folder(tmp_path / "single", classes=("cat",))
    assert "one class only (cat)" in refusal(single)


def test_files_are_those_of_torchvisions_image_folder_in_its_order(tmp_path):
    names = ["train/b/10.png", "train/b/9.PNG", "train/b/sub/1.jpeg", "train/a/z.webp"]
    names += ["train/a/sub.d/0.bmp", "train/a/a b.ppm", "train/b/notes.txt", "train/10/x.tif"]
    names += ["train/top.png", "train/b/sub/deeper/é.jpg", "linked/1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train" / "a" / "more").symlink_to(tmp_path / "linked", target_is_directory=True)
    expected = torchvision.datasets.ImageFolder(tmp_path / "train")
    found = images._scanned(tmp_path / "train")
    assert list(found.paths) == [path for path, _ in expected.samples]
    assert list(found.classes) == expected.classes == ["10", "a", "b"]
    assert found.counts == tuple(np.bincount(expected.targets)) == (1, 4, 4)


def test_paths_are_kept_in_little_memory(tmp_path):
    names = [os.path.join("class", f"{i}.JPEG") for i in range(300)]
    names.append(os.fsdecode(b"class/not utf-8 \xff.png"))
    paths = Paths(tmp_path, names)
    assert list(paths) == [str(tmp_path / name) for name in names]
    assert len(paths) == 301 and paths[300] == str(tmp_path / names[300])
    for outside in (-1, 301):
        with pytest.raises(IndexError):
            paths[outside]
    again = pickle.loads(pickle.dumps(paths))
    assert list(again) == list(paths)


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


# Random parts, resized


def photograph(seed, size):
    """Return an image that is smooth as photographs are, so that its JPEG is like theirs."""
    small = picture(seed, (max(2, size[0] // 16), max(2, size[1] // 16)))
    return small.resize(size, Image.Resampling.BICUBIC)


def photograph_folder(root, sizes, format="png", classes=("cat", "dog")):
    for split in ("train", "val"):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i, size in enumerate(sizes):
                photograph(10 * c + i, size).save(root / split / name / f"{i}.{format}")
    return root


SIZES = [(50, 40), (33, 64), (40, 40), (41, 200), (21, 20)]


@pytest.mark.parametrize("size", [16, 21, 35])
def test_centre_is_that_of_torchvisions_resize_and_centre_crop(tmp_path, size):
    folder = photograph_folder(tmp_path, SIZES)
    dataset = load_dataset(str(folder), image_size=size, crop="resized")
    assert isinstance(dataset.test_images, LazyImages)
    usual = transforms.Compose(
        [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size), TF.pil_to_tensor]
    )
    made = dataset.test_images[torch.arange(10)]
    for path, ours in zip(dataset.test_images.paths, made, strict=True):
        with Image.open(path) as image:
            difference = ours.int() - usual(image).int()
        assert difference.abs().max() <= 1  # they are rounded between the two


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_random_parts_equal_torchvisions_resized_crop(tmp_path, format):
    folder = photograph_folder(tmp_path, SIZES, format)
    images = load_dataset(str(folder), image_size=24, crop="resized").train_images
    order = torch.tensor([7, 0, 9, 3, 0, 5])
    made = images.parts(order, 0.0, 3, "a stream", 5)
    for i, ours in zip(order.tolist(), made, strict=True):
        with Image.open(images.paths[i]) as image:
            drawn = random.Random(seed_of(3, "a stream", 5, i))
            left, top, width, height = random_part(*image.size, drawn)
            expected = TF.resized_crop(image, top, left, height, width, [24, 24])
        assert torch.equal(ours, TF.pil_to_tensor(expected))
    assert torch.equal(made[1], made[4])


def test_a_part_depends_on_the_names_and_its_image_only(tmp_path):
    images = load_dataset(
        str(photograph_folder(tmp_path, SIZES)), image_size=8, crop="resized"
    ).train_images
    made = images.parts(torch.arange(10), 0.3, 3, "a", 5)
    assert torch.equal(made[[8, 2]], images.parts(torch.tensor([8, 2]), 0.3, 3, "a", 5))
    for other in ((4, "a", 5), (3, "b", 5), (3, "a", 6)):
        changed = images.parts(torch.arange(10), 0.3, *other)
        assert all(not torch.equal(a, b) for a, b in zip(made, changed, strict=True))
    assert images.parts(torch.arange(0), 0.3, 3, "a", 5).shape == (0, 3, 8, 8)


def test_large_jpegs_are_shrunk_by_their_decoder_with_little_loss(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    photograph(0, (1200, 900)).save(path, quality=95)
    sizes = []
    original = images._rgb
    monkeypatch.setattr(
        images, "_rgb", lambda image: (sizes.append(image.size), original(image))[1]
    )

    def parts():
        images = LazyImages([str(path)], 64, "resized")
        varied = [images.parts(torch.tensor([0]), 0.0, seed) for seed in range(40)]
        return torch.cat([images[torch.tensor([0])], *varied]).float()

    drafted = parts()
    assert {(600, 450), (300, 225)} <= set(sizes)  # beside parts of the original
    monkeypatch.setattr(images, "DRAFT_MARGIN", float("inf"))
    whole = parts()
    assert not torch.equal(drafted, whole)
    assert (drafted - whole).abs().mean() < 1 and (drafted - whole).abs().max() < 32
    # of the same place: elsewhere it is another picture
    assert (drafted[:, :, :, 1:] - whole[:, :, :, :-1]).abs().mean() > 2


def test_batches_of_random_parts(tmp_path):
    folder = str(photograph_folder(tmp_path, SIZES))
    dataset = load_dataset(folder, image_size=8, crop="resized", colour_jitter=0.4)
    assert dataset.crop == "resized" and dataset.cutout == 0
    vary = Augmentation(padding=0, flip=True, cutout=0, resized=True, colour_jitter=0.4)
    assert dataset.augmentation() == vary and dataset.augmentation(cutout=3).cutout == 3
    options = {"batch_size": 3, "seed": 2, "stream": "a", "drop_last": False}
    batches = Batches(dataset, **options)
    whole = list(batches.epoch(4))
    mean, std = (torch.tensor(each)[:, None, None] for each in (dataset.mean, dataset.std))
    order = torch.randperm(10, generator=generator(2, "a", "order", 4))
    parts = dataset.train_images.parts(order[3:6], 0.4, 2, "a", "resized crop", 4)
    expected = vary(parts, generator(2, "a", "augment", 4, 1), mean, std)
    assert torch.equal(whole[1][0], expected)
    assert torch.equal(whole[1][1], dataset.train_labels[order[3:6]])
    again = load_dataset(folder, image_size=8, crop="resized", colour_jitter=0.4)
    for (x, y), (again_x, again_y) in zip(
        whole[2:], Batches(again, **options).epoch(4, start=2), strict=True
    ):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)
    halves = [list(Batches(dataset, **options, part=(k, 2)).epoch(4)) for k in range(2)]
    for (x, _), (first, _), (second, _) in zip(whole, *halves, strict=True):
        assert torch.equal(x, torch.cat([first, second]))
    assert not torch.equal(next(batches.epoch(5))[0], whole[0][0])
    plain = next(Batches(dataset, batch_size=10, augment=False, shuffle=False).epoch(0))[0]
    assert torch.equal(plain, normalise(dataset.train_images[torch.arange(10)], mean, std))


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


def test_images_in_memory_have_no_random_parts():
    with pytest.raises(UserError, match="need images that are decoded batch by batch"):
        Batches(small_dataset(), batch_size=2, augment=Augmentation(resized=True))


# Corrupt images


def damage(path):
    path.write_bytes(path.read_bytes()[:90])
    return path


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


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_the_next_of_its_class_stands_in_for_a_corrupt_image(tmp_path, crop):
    make_folder(tmp_path, size=(9, 9), each=4)
    options = {"image_size": 6, "memory_budget": 0, "crop": crop}
    whole = load_dataset(str(tmp_path), **options).train_images
    for name in ("cat/1", "cat/3", "dog/2", "dog/3"):
        damage(tmp_path / "train" / f"{name}.png")
    everything = torch.arange(8)
    stand_ins = [0, 2, 2, 0, 4, 5, 4, 4]
    with pytest.warns(UserWarning) as caught:  # of all four: the statistics take every image
        dataset = load_dataset(str(tmp_path), **options, corrupt="skip")
    messages = [str(each.message) for each in caught]
    assert len(messages) == len(set(messages)) == 4 and messages == sorted(messages)
    assert all(each.endswith("another of its class stands in for it") for each in messages)
    assert f"not a readable image: {tmp_path / 'train' / 'cat' / '1.png'} (" in messages[0]
    images = dataset.train_images  # now nothing is said again: warnings are errors in tests
    assert torch.equal(images[everything], whole[torch.tensor(stand_ins)])
    assert dataset.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    order = torch.tensor([3, 6, 1])
    made = images.parts(order, 0.0, 0, "a")
    fresh = LazyImages(images.paths, 6, crop, images.starts)
    with pytest.warns(UserWarning) as caught:  # another process finds them anew
        assert torch.equal(fresh.parts(order, 0.0, 0, "a"), made)
    # image 3 needs 0, image 6 needs 4, as 7 is corrupt, too
    assert [str(each.message) for each in caught] == messages


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
    assert str(path) in message and "No such file" in message


def test_the_default_size_is_that_of_the_readable_images(tmp_path):
    make_folder(tmp_path, size=(9, 9))
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat.0\.png \(unknown format\): left out"):
        assert load_dataset(str(tmp_path), corrupt="skip").size == (9, 9)
    for path in Path(tmp_path).glob("*/*/*"):
        path.write_bytes(b"")
    assert "none of the images that were tried can be read" in refusal(tmp_path, corrupt="skip")


@pytest.mark.parametrize("image_size", [0, -3])
def test_image_size_is_positive(image_size):
    assert f"got {image_size}" in refusal("digits", image_size=image_size)


# Parts


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.5), (11, 0.5), (100, 0.9), (2, 0.5)])
def test_parts_are_disjoint_and_complete(n, fraction):
    first, second = split_indices(n, fraction, seed=1)
    assert len(first) == round(n * fraction)
    assert torch.cat([first, second]).sort().values.tolist() == list(range(n))


def test_parts_depend_on_the_seed_only():
    first = split_indices(1000, seed=1)[0]
    torch.rand(3)
    assert torch.equal(first, split_indices(1000, seed=1)[0])
    shared = np.intersect1d(first, split_indices(1000, seed=2)[0])
    assert 200 < len(shared) < 300


@pytest.mark.parametrize(("n", "fraction"), [(1, 0.5), (10, 0.0), (10, 1.0), (10, -1), (10, 0.01)])
def test_parts_are_never_empty(n, fraction):
    with pytest.raises(UserError, match=f"cannot split {n} images"):
        split_indices(n, fraction)


# Batches


def numbers(batch):
    """Return which images of small_dataset are in the batch; its labels must say the same."""
    x, y = batch
    drawn = (x[:, 0, 0, 0] * 0.5 + 0.25).mul(255).round().long()
    assert torch.equal(drawn, y)
    return y.tolist()


def test_every_image_comes_once_in_each_epoch_in_another_order():
    batches = Batches(small_dataset(), batch_size=4, augment=False, drop_last=False)
    epochs = [[numbers(batch) for batch in batches.epoch(e)] for e in range(3)]
    assert [[len(batch) for batch in each] for each in epochs] == [[4, 4, 2]] * 3
    orders = [list(chain(*each)) for each in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != list(range(10))


def test_evaluation_is_in_order_complete_and_unvaried():
    dataset = small_dataset(channels=3)
    batches = Batches(dataset, "test", batch_size=2)
    made = list(batches.epoch(0))
    assert list(chain(*map(numbers, made))) == [0, 1, 2, 3, 4] and len(batches) == 3
    x = torch.cat([x for x, _ in made])
    assert x.dtype == torch.float32 and x.is_contiguous()
    mean, std = torch.full((3, 1, 1), 0.25), torch.full((3, 1, 1), 0.5)
    assert torch.equal(x, normalise(dataset.test_images, mean, std))


def test_a_batch_depends_on_seed_stream_epoch_and_step_only():
    dataset = load_dataset("digits")
    options = {"batch_size": 100, "augment": Augmentation(padding=1, flip=True, cutout=3)}
    batches = Batches(dataset, seed=5, **options)
    whole = list(batches.epoch(2))
    torch.rand(3)
    list(batches.epoch(0))
    interleaved = batches.epoch(1)
    next(interleaved)
    resumed = list(Batches(dataset, seed=5, **options).epoch(2, start=9))
    assert len(whole) == len(batches) == 14 and len(resumed) == 5
    for (x, y), (again_x, again_y) in zip(whole[9:], resumed, strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)
    assert list(batches.epoch(2, start=14)) == []
    for other in (
        Batches(dataset, seed=6, **options).epoch(2),
        Batches(dataset, seed=5, stream="code", **options).epoch(2),
        batches.epoch(3),
        iter(whole[1:]),
    ):
        assert not torch.equal(next(other)[0], whole[0][0])


def test_augmentation_draws_its_own_numbers():
    dataset = load_dataset("digits")
    vary = Augmentation(padding=1, cutout=2)
    batches = Batches(dataset, batch_size=50, augment=vary, shuffle=False, seed=3)
    x, y = list(batches.epoch(4))[2]
    mean, std = torch.tensor(dataset.mean)[:, None, None], torch.tensor(dataset.std)[:, None, None]
    drawn = generator(3, "train", "augment", 4, 2)
    assert torch.equal(x, vary(dataset.train_images[100:150], drawn, mean, std))
    assert torch.equal(y, dataset.train_labels[100:150])


def test_training_batches_are_varied_by_default():
    dataset = small_dataset(64)
    assert Batches(dataset, batch_size=8).augmentation == dataset.augmentation()
    assert Batches(dataset, batch_size=8, cutout=3).augmentation.cutout == 3
    assert Batches(dataset, batch_size=8, augment=False).augmentation is None
    assert Batches(dataset, "test", batch_size=8).augmentation is None


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (5, True, [5, 5]),
        (4, True, [4, 4]),
        (4, False, [4, 4, 2]),
        (11, True, [10]),
        (11, False, [10]),
        (10, True, [10]),
    ],
)
def test_incomplete_batches(batch_size, drop_last, sizes):
    batches = Batches(small_dataset(), batch_size=batch_size, drop_last=drop_last)
    assert [len(y) for _, y in batches.epoch(0)] == sizes and len(batches) == len(sizes)


def test_subsets_of_the_split():
    dataset = small_dataset()
    parts = split_indices(10, seed=0)
    drawn = []
    for part in parts:
        batches = Batches(dataset, batch_size=2, indices=part, augment=False, drop_last=False)
        found = list(chain(*map(numbers, batches.epoch(0))))
        assert sorted(found) == part.tolist() and found != part.tolist()
        drawn += found
    assert sorted(drawn) == list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "split must be 'train' or 'test', got 'validation'"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"indices": torch.tensor([], dtype=torch.int64)}, "indices must be a list of one or more"),
        ({"indices": torch.tensor([0, 10])}, "indices must be 0 to 9, got 0 to 10"),
        ({"indices": torch.tensor([-1])}, "indices must be 0 to 9, got -1 to -1"),
        ({"augment": False, "cutout": 4}, "cutout=4 needs augment=True, got augment=False"),
        ({"cutout": -4}, "cutout must be 0 or more pixels, got -4"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Batches(small_dataset(), **{"batch_size": 2, **options})


@pytest.mark.parametrize("start", [-1, 6])
def test_start_is_a_step_of_the_epoch(start):
    with pytest.raises(UserError, match=f"start must be 0 to 5, .*got {start}"):
        Batches(small_dataset(), batch_size=2).epoch(0, start=start)


def test_old_files_spelling_of_dtypes_is_not_a_warning(tmp_path, monkeypatch):
    def warn(self, root, train, download=False):
        warnings.warn("dtype(): align should be passed as a boolean", stacklevel=1)
        raise RuntimeError("not found")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", warn)
    assert "--download" in refusal("cifar10", root=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_do_not_wait_for_a_cuda_device(resident):
    dataset = load_dataset("digits")
    batches = Batches(dataset.to("cuda") if resident else dataset, batch_size=64, device="cuda")
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        made = list(batches.epoch(0))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    expected = [y for _, y in Batches(dataset, batch_size=64).epoch(0)]
    assert torch.equal(torch.cat([y for _, y in made]).cpu(), torch.cat(expected))
