"""Image files become square arrays of pixels, as torchvision makes them."""

import io
import random

import numpy as np
import pytest
import torch
from pictures import damage, make_folder, photograph, photograph_folder, picture
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as TF

from isnas.runtime.errors import UserError
from isnas.runtime.randomness import seed_of
from isnas.tasks.images import LazyImages, decoding, load_dataset
from isnas.tasks.images.augmentation import random_part
from isnas.tasks.images.decoding import decode


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
    original = decoding._rgb
    monkeypatch.setattr(
        decoding, "_rgb", lambda image: (sizes.append(image.size), original(image))[1]
    )

    def parts():
        images = LazyImages([str(path)], 64, "resized")
        varied = [images.parts(torch.tensor([0]), 0.0, seed) for seed in range(40)]
        return torch.cat([images[torch.tensor([0])], *varied]).float()

    drafted = parts()
    assert {(600, 450), (300, 225)} <= set(sizes)  # beside parts of the original
    monkeypatch.setattr(decoding, "DRAFT_MARGIN", float("inf"))
    whole = parts()
    assert not torch.equal(drafted, whole)
    assert (drafted - whole).abs().mean() < 1 and (drafted - whole).abs().max() < 32
    # of the same place: elsewhere it is another picture
    assert (drafted[:, :, :, 1:] - whole[:, :, :, :-1]).abs().mean() > 2


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
