"""Image files become square arrays of pixels, as torchvision makes them."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import damage, make_folder, photograph, photograph_folder, picture
from PIL import Image, ImageOps
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
    image = decode([str(tmp_path / "wide.png")], 4)[0][0].float()
    assert image.shape == (3, 4, 4)
    assert ((image - 127).abs() < 25).all()


def test_longer_side_is_cropped_without_resampling(tmp_path):
    tall = picture(0, (6, 11))
    tall.save(tmp_path / "tall.png")
    image = decode([str(tmp_path / "tall.png")], 6)[0][0]
    assert torch.equal(image, torch.from_numpy(np.array(tall)[2:8]).permute(2, 0, 1))


def encoded(image, **options):
    written = io.BytesIO()
    image.save(written, "PNG", **options)
    return written.getvalue()


def decoded(path, size, colour="rgb"):
    """Return the only image of a file as rows of pixels."""
    images, kept = decode([str(path)], size, colour=colour)
    assert kept.tolist() == [0]
    return images[0].permute(1, 2, 0).numpy()


GREY = np.array([[0, 64], [128, 255]], dtype=np.uint8)
ALPHA = np.array([[255, 0], [255, 128]], dtype=np.uint8)
ON_WHITE = np.array([[0, 255], [128, 255]], dtype=np.uint8)  # half of 255 on white is white
RGB = np.repeat(GREY[:, :, None], 3, axis=2)
PALETTE = Image.fromarray(GREY).convert("P")


@pytest.mark.parametrize("colour", ["rgb", "grey"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.fromarray(GREY)), GREY),
        (encoded(Image.fromarray(RGB)), GREY),
        (encoded(Image.fromarray(np.dstack([GREY, ALPHA]))), ON_WHITE),
        (encoded(Image.fromarray(np.dstack([RGB, ALPHA]))), ON_WHITE),
        (encoded(PALETTE), GREY),
        (encoded(PALETTE, transparency=bytes([255] * 64 + [0])), ON_WHITE),
        (encoded(PALETTE, transparency=64), ON_WHITE),
        (encoded(Image.fromarray(GREY), transparency=64), ON_WHITE),
        (encoded(Image.fromarray(RGB), transparency=(64, 64, 64)), ON_WHITE),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), GREY),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), transparency=64 * 257), ON_WHITE),
        (encoded(Image.fromarray(GREY > 100)), np.where(GREY > 100, 255, 0)),
    ],
)
def test_every_mode_becomes_rgb_or_grey_and_what_is_transparent_white(
    tmp_path, content, expected, colour
):
    (tmp_path / "image.png").write_bytes(content)
    made = decoded(tmp_path / "image.png", 2, colour)
    assert made.shape == (2, 2, 3 if colour == "rgb" else 1)
    assert (made == expected[:, :, None]).all()


def test_half_transparent_pixels_are_blended_with_white(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    colours, alpha = np.meshgrid(levels, levels)
    Image.fromarray(np.dstack([colours, colours, colours, alpha])).save(tmp_path / "all.png")
    share = alpha[:, :, None] / 255
    exact = share * colours[:, :, None] + (1 - share) * 255
    assert abs(decoded(tmp_path / "all.png", 256) - exact).max() <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_modes_of_other_formats(mode):
    if mode == "La":
        image = Image.fromarray(np.dstack([GREY, ALPHA])).convert(mode)
    elif mode == "RGBa":
        image = Image.fromarray(np.dstack([RGB, ALPHA])).convert(mode)
    else:
        image = Image.fromarray(RGB).convert(mode)
    expected = ON_WHITE if mode in ("La", "RGBa") else GREY
    made = np.asarray(decoding.converted(image)).astype(int)
    assert made.shape == (2, 2, 3) and abs(made - expected[:, :, None]).max() <= 2


def test_colours_become_pillows_grey(tmp_path):
    image = picture(0, (8, 8))
    image.save(tmp_path / "a.png")
    assert np.array_equal(decoded(tmp_path / "a.png", 8, "grey")[:, :, 0], image.convert("L"))


def test_the_first_picture_of_an_animation_is_read(tmp_path):
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.tiff"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], **lossless)
        assert (decoded(tmp_path / name, 4) == [255, 0, 0]).all()


# Orientation

ORIENTATION = 0x0112
FORMATS = ["jpg", "png", "webp", "tiff"]


def tagged(path, image, orientation):
    """Write an image with an orientation tag, without loss where the format can; return it as it is on disk."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if path.suffix == ".webp" else {"quality": 95}
    image.save(path, exif=exif, **(options if path.suffix != ".png" else {}))
    return path


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(tmp_path, orientation, format):
    path = tagged(tmp_path / f"image.{format}", photograph(0, (48, 31)), orientation)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert expected.size == ((48, 31) if orientation < 5 else (31, 48))
    plain = tmp_path / "plain.png"
    expected.save(plain)
    for size in (31, 16):
        assert np.array_equal(decoded(path, size), decoded(plain, size))
    for crop in ("pad", "resized"):
        ours, theirs = (LazyImages([str(each)], 16, crop) for each in (path, plain))
        zero = torch.tensor([0])
        assert torch.equal(ours[zero], theirs[zero])
        for seed in range(4):
            assert torch.equal(ours.parts(zero, 0.0, seed), theirs.parts(zero, 0.0, seed))


@pytest.mark.parametrize("orientation", [3, 6])
def test_large_jpegs_are_turned_when_their_decoder_has_shrunk_them(tmp_path, orientation):
    path = tagged(tmp_path / "large.jpg", photograph(0, (1200, 800)), orientation)
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).save(tmp_path / "plain.png")
    ours, theirs = (
        LazyImages([str(tmp_path / n)], 64, "resized") for n in ("large.jpg", "plain.png")
    )
    zero = torch.tensor([0])
    pairs = [(ours[zero], theirs[zero])]
    pairs += [(ours.parts(zero, 0.0, seed), theirs.parts(zero, 0.0, seed)) for seed in range(10)]
    for mine, exact in pairs:
        assert (mine.float() - exact.float()).abs().mean() < 1
        assert (mine.float() - exact.float().flip(2)).abs().mean() > 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so
def test_a_damaged_tag_leaves_the_image_as_it_is(tmp_path):
    image = picture(0, (8, 8))
    for i, exif in enumerate([b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]):
        image.save(tmp_path / f"{i}.jpg", exif=exif, quality=95)
        image.save(tmp_path / "plain.jpg", quality=95)
        assert np.array_equal(decoded(tmp_path / f"{i}.jpg", 8), decoded(tmp_path / "plain.jpg", 8))


# Images that cannot be read


def test_unreadable_images_are_named_all_at_once(tmp_path):
    paths = []
    for i in range(14):
        paths.append(str(tmp_path / f"{i}.png"))
        picture(i).save(paths[-1])
    damage(tmp_path / "3.png")
    (tmp_path / "5.png").write_bytes(b"")
    (tmp_path / "11.png").write_bytes(b"nonsense")
    with pytest.raises(UserError) as caught:
        decode(paths, 8)
    message = str(caught.value)
    assert message.startswith("3 images are not readable: ") and "\n" not in message
    assert f"{paths[5]} (empty file), {paths[11]} (unknown format)" in message
    assert f"{paths[3]} (" in message and "(--corrupt skip)" in message
    with pytest.warns(UserWarning) as warned:
        images, kept = decode(paths, 8, skip=True)
    assert len(warned) == 3 and len(images) == 11
    assert kept.tolist() == [i for i in range(14) if i not in (3, 5, 11)]
    for path in paths:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError, match=r"14 images .*9\.png \(empty file\) and 4 more; corrupt="):
        decode(paths, 8)


def test_a_lazy_batch_names_all_its_unreadable_images(tmp_path):
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.png"))
        picture(i).save(paths[-1])
    for i in (1, 2):
        Path(paths[i]).write_bytes(b"")
    with pytest.raises(UserError, match=r"2 images are not readable: .*1\.png .*2\.png .*skip"):
        LazyImages(paths, 8)[torch.arange(4)]


def test_files_that_the_system_cannot_read_are_named_and_never_skipped(tmp_path):
    picture(0).save(tmp_path / "0.png")
    paths = [str(tmp_path / name) for name in ("0.png", "missing.png", "empty.png")]
    (tmp_path / "empty.png").write_bytes(b"")
    for skip in (False, True):
        with pytest.raises(
            UserError, match=r"missing\.png \(No such file or directory\)"
        ) as caught:
            decode(paths, 8, skip=skip)
        assert "--corrupt" not in str(caught.value)
        assert ("empty.png" in str(caught.value)) == (not skip)


def test_an_image_of_too_many_pixels_is_named_with_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (300, 300)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(UserError, match=r"huge\.png \(.*90000 pixels\) exceeds limit of 80000"):
        decode([str(path)], 8)


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
    original = decoding.converted

    def noting(image, colour):
        sizes.append(image.size)
        return original(image, colour)

    monkeypatch.setattr(decoding, "converted", noting)

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
