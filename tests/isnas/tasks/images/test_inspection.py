"""A check of a folder finds what a training would, names what is wrong, and changes nothing."""

import json
import shutil

import pytest
from pictures import damage, make_folder, picture
from PIL import Image

from isnas import UserError, check_data
from isnas.cli import main
from isnas.tasks.images import load_dataset


def checked(place, **options):
    found = check_data(place, **options)
    return found.inspection, "\n".join(found.lines())


def test_a_tidy_folder_is_fine(tmp_path):
    make_folder(tmp_path, each=4, size=(20, 12))
    found, text = checked(tmp_path)
    assert found.problems == found.remarks == [] and found.shared == found.repeated == []
    for split in ("train", "test"):
        facts = found.splits[split]
        assert facts.counts == facts.readable == {"cat": 4, "dog": 4}
        assert facts.smallest == facts.largest == (20, 12) and facts.sides == (12, 12)
        assert facts.modes == {"RGB": 8} and facts.formats == {"PNG": 8}
    # what is said is what is loaded
    loaded = load_dataset(str(tmp_path))
    assert found.prepared["image_size"] == loaded.size[0] == 12
    assert found.prepared["cutout"] == loaded.cutout and found.amount == len(loaded.train_labels)
    assert "20 x 12 pixels" in text and "batch size: 64" in text


def test_what_training_would_refuse_is_a_problem_and_every_file_is_named(tmp_path):
    make_folder(tmp_path, each=30)
    broken = [damage(tmp_path / "train" / "dog" / f"{i}.png") for i in range(15)]
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"")
    found, text = checked(tmp_path)
    assert len(found.problems) == 1 and "16 images are not readable" in found.problems[0]
    for path in broken:  # all of them, not ten
        assert str(path) in text
    assert "(empty file)" in text
    with pytest.raises(UserError, match="images are not readable"):
        load_dataset(str(tmp_path))
    assert checked(tmp_path, corrupt="skip")[0].problems == []
    assert found.splits["train"].readable == {"cat": 30, "dog": 15}


def test_a_class_without_a_readable_image_is_a_problem_whatever_is_skipped(tmp_path):
    make_folder(tmp_path)
    for i in range(3):
        damage(tmp_path / "train" / "dog" / f"{i}.png")
    found, _ = checked(tmp_path, corrupt="skip")
    assert [p for p in found.problems if "no readable images" in p and "dog" in p]


def test_same_pictures_in_training_and_test_are_found_by_bytes_and_by_pixels(tmp_path):
    make_folder(tmp_path)
    train, test = tmp_path / "train", tmp_path / "test"
    shutil.copy(train / "cat" / "0.png", test / "cat" / "copy.png")
    Image.open(train / "cat" / "1.png").save(test / "dog" / "other.bmp")
    Image.open(train / "dog" / "1.png").save(train / "dog" / "again.bmp")
    found, text = checked(tmp_path)
    pairs = {(d.one, d.other): d for d in found.shared}
    copy = pairs[str(train / "cat" / "0.png"), str(test / "cat" / "copy.png")]
    other = pairs[str(train / "cat" / "1.png"), str(test / "dog" / "other.bmp")]
    assert copy.same_bytes and not other.same_bytes and other.classes == ("cat", "dog")
    assert len(pairs) == 2
    assert [(d.one, d.other) for d in found.repeated] == [
        (str(train / "dog" / "1.png"), str(train / "dog" / "again.bmp"))
    ]
    assert "same pixels, classes cat and dog" in text and "in two classes" in text
    assert not found.problems  # a training takes them as they are


def test_one_picture_many_times_is_counted_once_for_each_further_file(tmp_path):
    make_folder(tmp_path, each=1)
    for name in ("a.png", "b.png"):
        shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "cat" / name)
        shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / "cat" / name)
    found, _ = checked(tmp_path)
    assert [d.other[-5:] for d in found.shared] == ["a.png", "b.png"]
    assert len(found.repeated) == 3  # two in train, one in test


def test_a_mirrored_or_turned_picture_is_another_but_a_tag_turns_it_back(tmp_path):
    make_folder(tmp_path, size=(8, 6))
    shown = Image.open(tmp_path / "train" / "cat" / "0.png")
    tag = Image.Exif()
    tag[0x0112] = 8  # turned by 90 degrees when shown
    shown.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "test" / "cat" / "t.png", exif=tag)
    shown.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "test" / "cat" / "u.png")
    found, text = checked(tmp_path)
    assert [d.other for d in found.shared] == [str(tmp_path / "test" / "cat" / "t.png")]
    assert found.splits["test"].turned == 1 and "1 turned upright" in text


def test_kinds_of_images_and_what_is_left_out_are_counted(tmp_path):
    make_folder(tmp_path)
    place = tmp_path / "train" / "cat"
    picture(50, mode="L").save(place / "grey.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 60)).save(place / "clear.png")
    picture(51).save(place / "moving.gif", save_all=True, append_images=[picture(52)])
    (place / "notes.txt").touch()
    (place / ".hidden").touch()
    picture(53).save(tmp_path / "train" / "nowhere.png")
    found, text = checked(tmp_path)
    facts = found.splits["train"]
    assert facts.modes == {"RGB": 6, "L": 1, "RGBA": 1, "P": 1} and facts.transparent == 1
    assert facts.animated == 1
    assert (found.left_out.hidden, found.left_out.outside) == (1, 1)
    assert found.left_out.kinds == {".txt": 1}
    assert "left out: 1 hidden or system entry, 1 file of another kind (1 .txt)" in text


def test_imbalance_says_what_always_the_largest_class_is_worth(tmp_path):
    make_folder(tmp_path, each=2)
    for i in range(6):
        picture(70 + i).save(tmp_path / "train" / "cat" / f"more {i}.png")
    found, _ = checked(tmp_path)
    (remark,) = found.remarks
    assert "cat has 4.0 times the training images of dog" in remark and "50 % of the test" in remark


def test_folders_that_training_refuses_are_shown_as_far_as_they_go(tmp_path):
    make_folder(tmp_path, splits=("train",))
    found, text = checked(tmp_path)
    assert len(found.problems) == 1 and "--split 0.8" in found.problems[0]
    assert found.splits["train"].counts == {"cat": 3, "dog": 3} and "cat" in text
    divided, _ = checked(tmp_path, split=0.67)
    assert not divided.problems and divided.splits["test"].counts == {"cat": 1, "dog": 1}
    shutil.copytree(tmp_path / "train" / "cat", tmp_path / "val" / "cat")
    other, _ = checked(tmp_path)
    assert "same classes" in other.problems[0] and set(other.splits) == {"train", "test"}


def test_flat_folders_and_empty_ones(tmp_path):
    make_folder(tmp_path, splits=("",))
    found, _ = checked(tmp_path)
    assert "no folder" in found.problems[0] and found.splits["train"].counts["dog"] == 3
    (tmp_path / "nothing").mkdir()
    empty, text = checked(tmp_path / "nothing")
    assert empty.problems and not empty.splits and "would stop a training" in text


@pytest.mark.parametrize("name", ["digits", "no such folder"])
def test_what_is_no_folder_is_a_mistake(name):
    with pytest.raises(UserError, match=name):
        check_data(name)


def test_the_command_says_by_its_status_whether_all_is_fine(tmp_path, capsys):
    make_folder(tmp_path)
    assert main(["check-data", str(tmp_path), "--quiet"]) == 0
    assert "would stop" not in capsys.readouterr().out
    damage(tmp_path / "train" / "cat" / "1.png")
    assert main(["check-data", str(tmp_path), "--json", "--quiet"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fine"] and found["problems"]
    (unreadable,) = found["splits"]["train"]["unreadable"]
    assert unreadable["path"].endswith("1.png")
    assert main(["check-data", str(tmp_path), "--json", "--quiet", "--corrupt", "skip"]) == 0
    assert main(["check-data", str(tmp_path / "nope")]) == 2


def test_only_images_are_checked(tmp_path):
    with pytest.raises(UserError, match="image_size must be at least 4"):
        check_data(tmp_path, image_size=1)
