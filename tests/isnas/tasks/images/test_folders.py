"""The files of a folder are found class by class."""

import os
import pickle

import numpy as np
import pytest
import torchvision

from isnas.tasks.images.folders import Paths, scan


def test_files_are_those_of_torchvisions_image_folder_in_its_order(tmp_path):
    names = ["train/b/10.png", "train/b/9.PNG", "train/b/sub/1.jpeg", "train/a/z.webp"]
    names += ["train/a/sub.d/0.bmp", "train/a/a b.ppm", "train/b/notes.txt", "train/10/x.tif"]
    names += ["train/top.png", "train/b/sub/deeper/é.jpg", "linked/1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train" / "a" / "more").symlink_to(tmp_path / "linked", target_is_directory=True)
    expected = torchvision.datasets.ImageFolder(tmp_path / "train")
    found = scan(tmp_path / "train")
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
