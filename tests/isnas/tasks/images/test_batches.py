"""Batches are a function of seed, stream, epoch and step; parts divide a data set."""

import threading
from itertools import chain

import numpy as np
import pytest
import torch
from pictures import make_folder, photograph_folder, small_dataset

from isnas.runtime.errors import UserError
from isnas.runtime.randomness import generator
from isnas.tasks.images import Augmentation, Batches, load_dataset, split_indices
from isnas.tasks.images.augmentation import normalise


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
        (10, True, [10]),
    ],
)
def test_incomplete_batches(batch_size, drop_last, sizes):
    batches = Batches(small_dataset(), batch_size=batch_size, drop_last=drop_last)
    assert [len(y) for _, y in batches.epoch(0)] == sizes and len(batches) == len(sizes)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_that_is_larger_than_the_data(drop_last):
    with pytest.warns(UserWarning, match="batch_size 11 is larger than the 10 images to draw from"):
        batches = Batches(small_dataset(), batch_size=11, drop_last=drop_last)
    assert [len(y) for _, y in batches.epoch(0)] == [10] and len(batches) == 1


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
        ({"split": "validation"}, "split must be one of train, test, got 'validation'"),
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


SIZES = [(50, 40), (33, 64), (40, 40), (41, 200), (21, 20)]


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


def test_images_in_memory_have_no_random_parts():
    with pytest.raises(UserError, match="need images that are decoded batch by batch"):
        Batches(small_dataset(), batch_size=2, augment=Augmentation(resized=True))


def test_leaving_a_lazy_epoch_early_ends_its_thread(tmp_path):
    lazy = load_dataset(str(make_folder(tmp_path, each=20)), memory_budget=0)
    running = threading.active_count()
    batches = Batches(lazy, batch_size=4).epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == running
