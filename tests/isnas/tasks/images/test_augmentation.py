"""The augmentation has torchvision's outcomes, with torchvision's probabilities."""

import itertools
import random

import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
import torchvision.transforms.functional as TF
from PIL import Image
from scipy.stats import chisquare, ks_2samp, kstest
from torch.utils._python_dispatch import TorchDispatchMode

from isnas.runtime.errors import UserError
from isnas.runtime.randomness import generator
from isnas.tasks.images.augmentation import (
    Augmentation,
    crop,
    cut_out,
    jittered,
    normalise,
    random_part,
)

MEAN = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
STD = torch.tensor([0.2, 0.25, 0.3])[:, None, None]
# With these a normalised image is 255 times smaller than its pixels, and exact when scaled back.
NO_MEAN, NO_STD = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def random_images(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed, "images"))


def pixels(x):
    return (x * 255).round().to(torch.uint8)


def test_normalise_is_torchvisions_bit_for_bit():
    images = random_images(4, 3, 5, 7)
    expected = TF.normalize(images.float().div(255), MEAN.flatten(), STD.flatten())
    assert torch.equal(normalise(images, MEAN, STD), expected)


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_crop_equals_torchvision_image_by_image(padding, size):
    height, width = size
    places = list(itertools.product(range(2 * padding + 1), range(2 * padding + 1), (False, True)))
    top, left, mirrored = (torch.tensor(each) for each in zip(*places, strict=True))
    images = random_images(len(places), 3, *size)
    made = crop(images, top, left, mirrored, padding=padding)
    assert made.dtype == torch.uint8 and made.is_contiguous()
    for image, ours, (i, j, flip) in zip(images, made, places, strict=True):
        expected = TF.crop(TF.pad(image, padding), i, j, height, width)
        assert torch.equal(ours, TF.hflip(expected) if flip else expected)


def test_outcomes_are_those_of_torchvisions_random_transforms_and_equally_likely():
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    n = 18_000
    x = Augmentation(padding=1, flip=True)(
        image.expand(n, 1, 4, 4), generator(0, "crop"), NO_MEAN, NO_STD
    )
    ours, counts = pixels(x).flatten(1).unique(dim=0, return_counts=True)
    torch.manual_seed(0)
    reference = transforms.Compose(
        [transforms.RandomCrop(4, padding=1), transforms.RandomHorizontalFlip()]
    )
    theirs = torch.stack([reference(image).flatten() for _ in range(600)]).unique(dim=0)
    assert len(ours) == 18  # 3 x 3 places, mirrored or not
    assert torch.equal(ours, theirs)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_images_of_a_batch_are_varied_independently():
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    x = Augmentation(padding=1, flip=True)(
        image.expand(36_000, 1, 4, 4), generator(1, "crop"), NO_MEAN, NO_STD
    )
    _, outcome = pixels(x).flatten(1).unique(dim=0, return_inverse=True)
    pairs = outcome[0::2] * 18 + outcome[1::2]
    assert chisquare(torch.bincount(pairs, minlength=18 * 18).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6, 20])
def test_cut_out_equals_its_definition_at_every_centre(side):
    height, width = 6, 5
    centres = list(itertools.product(range(height), range(width)))
    rows, columns = (torch.tensor(each) for each in zip(*centres, strict=True))
    x = torch.ones(len(centres), 2, height, width)
    made = cut_out(x, rows, columns, side=side)
    for ours, (row, column) in zip(made, centres, strict=True):
        expected = torch.ones(2, height, width)
        for i in range(row - side // 2, row - side // 2 + side):
            for j in range(column - side // 2, column - side // 2 + side):
                if 0 <= i < height and 0 <= j < width:
                    expected[:, i, j] = 0
        assert torch.equal(ours, expected)
    assert (x == 1).all()


def test_cut_out_centres_are_uniform_over_the_image():
    height, width, side, n = 6, 5, 3, 30_000
    images = torch.full((n, 1, height, width), 255, dtype=torch.uint8)
    x = Augmentation(cutout=side)(images, generator(0, "cut"), NO_MEAN, NO_STD)
    shapes, counts = x.flatten(1).unique(dim=0, return_counts=True)
    assert len(shapes) == height * width  # at this size each centre leaves another picture
    assert chisquare(counts.numpy()).pvalue > 1e-3
    # Clipped at the border: an axis of length L shows 2, 3, ..., 3, 2 of the square's 3 pixels.
    mean_area = (3 - 2 / height) * (3 - 2 / width)
    assert (x == 0).sum().item() / n == pytest.approx(mean_area, rel=0.01)


def test_cut_out_is_zero_after_normalisation_and_the_padding_is_black_before():
    black = normalise(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), MEAN, STD)[0, :, 0, 0]
    images = torch.full((200, 3, 8, 8), 255, dtype=torch.uint8)
    padded = Augmentation(padding=1)(images, generator(0, "a"), MEAN, STD)
    white = normalise(images[:1], MEAN, STD)[0, :, 0, 0]
    colours = padded.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert torch.equal(colours, torch.stack([black, white]))
    cut = Augmentation(cutout=4)(images, generator(0, "a"), MEAN, STD)
    colours = cut.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert torch.equal(colours, torch.stack([torch.zeros(3), white]))


def test_nothing_to_do_only_normalises():
    images = random_images(3, 3, 4, 4)
    x = Augmentation()(images, generator(0, "a"), MEAN, STD)
    assert torch.equal(x, normalise(images, MEAN, STD))


def test_depends_on_its_generator_only_and_leaves_the_images_alone():
    images = random_images(16, 3, 8, 8)
    before = images.clone()
    vary = Augmentation(padding=2, flip=True, cutout=4)
    first = vary(images, generator(3, "a"), MEAN, STD)
    torch.rand(7)
    assert torch.equal(first, vary(images, generator(3, "a"), MEAN, STD))
    assert not torch.equal(first, vary(images, generator(4, "a"), MEAN, STD))
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [(500, 375), (90, 200), (31, 60), (8, 8)])
def test_random_parts_are_distributed_as_torchvisions(size):
    """In area, ratio and place; some of them, the more the longer the image, are drawn again."""
    width, height = size
    drawn = random.Random(0)
    n = 3000
    ours = np.array([random_part(width, height, drawn) for _ in range(n)])
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    params = transforms.RandomResizedCrop.get_params
    theirs = np.array([params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    theirs = theirs[:, [1, 0, 3, 2]]

    def features(parts):
        left, top, w, h = parts.T
        spare = np.maximum(width - w, 1), np.maximum(height - h, 1)
        return w * h, w / h, left, top, left / spare[0], top / spare[1], w, h

    for a, b in zip(features(ours), features(theirs), strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3
    left, top, w, h = ours.T
    assert (ours >= 0).all() and (left + w <= width).all() and (top + h <= height).all()
    assert (w > 0).all() and (h > 0).all()


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (3, 100), (100, 1)])
def test_where_no_part_fits_it_is_torchvisions_centre(size):
    width, height = size
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    params = transforms.RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])
    drawn = random.Random(0)
    parts = {random_part(width, height, drawn) for _ in range(20)}
    assert parts == {tuple(params[i] for i in (1, 0, 3, 2))}


def colours(n=40):
    drawn = np.random.default_rng(0).integers(0, 256, (n, n, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


CHANGES = ("brightness", "contrast", "saturation", "hue")


def jitters(monkeypatch, n, strength):
    """Return how `jittered` calls torchvision's functions: n times the four (name, amount) in order."""
    calls = []
    for name in CHANGES:
        monkeypatch.setattr(
            TF,
            f"adjust_{name}",
            lambda image, amount, name=name: (calls.append((name, amount)), image)[1],
        )
    drawn = random.Random(0)
    for _ in range(n):
        jittered(colours(1), strength, drawn)
    return [calls[i : i + 4] for i in range(0, len(calls), 4)]


def test_colour_jitter_draws_as_torchvision(monkeypatch):
    n, strength = 4000, 0.4
    made = jitters(monkeypatch, n, strength)
    orders = [tuple(name for name, _ in each) for each in made]
    places = list(itertools.permutations(CHANGES))
    assert set(orders) == set(places)
    assert chisquare([orders.count(order) for order in places]).pvalue > 1e-3
    amounts = {name: np.array([dict(each)[name] for each in made]) for name in CHANGES}
    for name in CHANGES[:3]:
        assert kstest(amounts[name], "uniform", args=(0.6, 0.8)).pvalue > 1e-3
    assert kstest(amounts["hue"], "uniform", args=(-0.2, 0.4)).pvalue > 1e-3
    assert (abs(np.corrcoef(list(amounts.values())) - np.eye(4)) < 0.06).all()


def test_colour_jitter_is_torchvisions(monkeypatch):
    image = colours()
    with monkeypatch.context() as recorded:
        ((*changes,),) = jitters(recorded, 1, 0.4)
    amounts = dict(changes)
    order = torch.tensor([CHANGES.index(name) for name, _ in changes])
    params = (order, *(amounts[name] for name in CHANGES))
    monkeypatch.setattr(transforms.ColorJitter, "get_params", lambda *_: params)
    expected = transforms.ColorJitter(0.4, 0.4, 0.4, 0.2)(image)
    made = jittered(image, 0.4, random.Random(0))
    assert np.array_equal(np.asarray(made), np.asarray(expected))
    assert not np.array_equal(np.asarray(made), np.asarray(image))


@pytest.mark.parametrize("amount", [-0.1, 1.0])
def test_colour_jitter_has_a_range_and_needs_parts(amount):
    with pytest.raises(UserError, match=f"colour_jitter must be .* got {amount}"):
        Augmentation(resized=True, colour_jitter=amount)
    with pytest.raises(UserError, match=r"colour_jitter=0\.4 needs images that are resized parts"):
        Augmentation(colour_jitter=0.4)


@pytest.mark.parametrize("name", ["padding", "cutout"])
def test_negative_lengths_are_refused(name):
    with pytest.raises(UserError, match=f"{name} must be 0 or more pixels, got -1"):
        Augmentation(**{name: -1})


class RecordedOperations(TorchDispatchMode):
    """Lists the names of the operations run, and those that got a mask as an index."""

    def __init__(self):
        super().__init__()
        self.names = set()
        self.masked = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names.add(name)
        if name.startswith("index") and any(
            isinstance(each, torch.Tensor) and each.dtype in (torch.bool, torch.uint8)
            for each in (args[1] if isinstance(args[1], (list, tuple)) else ())
        ):
            self.masked.add(name)
        return func(*args, **(kwargs or {}))


def test_no_operation_reads_a_value_back():
    images, drawn = random_images(8, 3, 8, 8), generator(0, "a")
    with RecordedOperations() as recorded:
        Augmentation(padding=1, flip=True, cutout=4)(images, drawn, MEAN, STD)
    assert "gather" in recorded.names and not recorded.masked
    reading = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal"}
    assert not recorded.names & reading


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_synchronisation_on_cuda():
    images = random_images(8, 3, 8, 8).cuda()
    mean, std = MEAN.cuda(), STD.cuda()
    drawn = generator(0, "a", device=images.device)
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        x = Augmentation(padding=1, flip=True, cutout=4)(images, drawn, mean, std)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert x.isfinite().all()
