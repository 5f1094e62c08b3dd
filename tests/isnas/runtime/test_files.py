"""Files are written whole or not at all, and a damaged or hostile one is a clear error and nothing more."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import build_network

from isnas import DARTS_SPACE, GENOTYPES, Genotype, UserError, load_network, save_network
from isnas.runtime.errors import FileError
from isnas.runtime.files import (
    Folder,
    check_output,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from isnas.runtime.forms import ANYTHING

DATA = {
    "weights": torch.arange(6.0).reshape(2, 3) / 7,
    "counts": torch.tensor([1, 2, 3]),
    "names": ["a", "b", None],
    "epoch": 3,
}


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return (
            isinstance(a, torch.Tensor)
            and isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and torch.equal(a, b)
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


class TestAtomicWriting:
    def test_writes_text_and_bytes(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", "é\n")
        write_atomically(tmp_path / "a", b"\x00\xff")
        assert (tmp_path / "a").read_bytes() == b"\x00\xff"
        write_atomically(tmp_path / "a", "é\n")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "é\n"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("broken", ["replace", "fsync"])
    def test_a_failure_leaves_the_old_file_and_no_rest(
        self, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_atomically(tmp_path / "a", "old")

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, broken, fail)
        with pytest.raises(UserError, match="No space left on device") as caught:
            write_atomically(tmp_path / "a", "new")
        assert str(tmp_path / "a") in str(caught.value)
        assert (tmp_path / "a").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_the_old_file_is_whole_until_the_new_one_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_atomically(tmp_path / "a", "old")
        seen = []
        rename = os.replace

        def look(source: str, target: str, **where: Any) -> None:
            seen.append([(tmp_path / name).read_text() for name in (source, target)])
            rename(source, target, **where)

        monkeypatch.setattr(os, "replace", look)
        write_atomically(tmp_path / "a", "new")
        assert seen == [["new", "old"]]

    @pytest.mark.parametrize("place", ["missing/a", "file/a", "directory"])
    def test_an_impossible_place_is_a_user_error(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "directory").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="cannot be written"):
            write_atomically(tmp_path / place, "new")
        assert sorted(tmp_path.rglob("*")) == before


class TestOutputs:
    """Paths that a user gives for output."""

    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "a").write_text("old")
        (tmp_path / "link").symlink_to("there/a")
        (tmp_path / "dangling").symlink_to("there/b")
        for name, target in (("link", "a"), ("dangling", "b")):
            write_atomically(tmp_path / name, "new")
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / "there" / target).read_text() == "new"
        assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["a", "b"]

    def test_what_is_no_regular_file_is_written_straight_into(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_atomically(pipe, "new")
        assert os.read(reader, 10) == b"new"
        os.close(reader)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        (tmp_path / "null").symlink_to("/dev/null")
        for path in ("/dev/null", tmp_path / "null"):
            write_atomically(path, "new")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        if os.path.exists("/dev/full"):
            with pytest.raises(FileError, match="/dev/full cannot be written: No space left"):
                write_atomically("/dev/full", "new")

    def test_a_path_that_is_no_text(self, tmp_path: Path) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m")
        write_atomically(path, f"{path} é")
        assert Path(path).read_bytes().endswith("\\udcff\x1b[31m é".encode())
        with pytest.raises(
            FileError, match=r"\\udcff\\x1b\[31m/a cannot be written: Not a directory"
        ):
            write_atomically(f"{path}/a", "")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("a" * 300, "File name too long"),
            ("missing/a", "No such file"),
            ("file/a", "Not a directory"),
            (".", "it is a directory"),
            ("loop", "Too many levels of symbolic links"),
            ("\0", "there can be no file of such a name"),
        ],
    )
    def test_what_cannot_be_written_is_said_before_the_work(
        self, name: str, message: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        before = sorted(tmp_path.iterdir())
        for function in (check_output, lambda path: write_atomically(path, "new")):
            with pytest.raises(FileError, match=message):
                function(tmp_path / name)
        assert sorted(tmp_path.iterdir()) == before

    def test_what_can_be_written_passes(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "dangling").symlink_to("other")
        for path in (tmp_path / "new", tmp_path / "file", tmp_path / "dangling", "/dev/null"):
            check_output(path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a file that belongs to somebody else, beside the directory ``folder``."""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("precious\n")
    return tmp_path / "elsewhere" / "a"


ACTIONS: dict[str, Callable[[Folder, str], object]] = {
    "read": lambda folder, name: folder.read(name),
    "lines": lambda folder, name: list(folder.lines(name)),
    "json": lambda folder, name: folder.read_json(name, ANYTHING),
    "size": lambda folder, name: folder.size(name),
    "write": lambda folder, name: folder.write(name, "new"),
    "append": lambda folder, name: folder.append(name, "new"),
    "truncate": lambda folder, name: folder.truncate(name, 0),
    "sync": lambda folder, name: folder.sync(name),
    "lock": lambda folder, name: folder.lock(name),
    "is locked": lambda folder, name: folder.is_locked(name),
}


class TestFolder:
    """A directory that may come from elsewhere."""

    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("kind", ["file", "directory", "dangling"])
    def test_links_are_not_followed(self, action: str, kind: str, outside: Path) -> None:
        folder = Folder(outside.parent.parent / "folder")
        name = "inner/a"
        if kind == "directory":
            (folder.path / "inner").rmdir()
            (folder.path / "inner").symlink_to(outside.parent)
        else:
            target = outside if kind == "file" else outside.with_name("new")
            (folder.path / name).symlink_to(target)
        with pytest.raises(FileError, match=r"inner/a cannot be .* symbolic link"):
            ACTIONS[action](folder, name)
        assert outside.read_text() == "precious\n"
        assert [path.name for path in outside.parent.iterdir()] == ["a"]

    def test_folders_that_are_links_are_not_followed(self, outside: Path) -> None:
        folder = Folder(outside.parent.parent / "folder")
        (folder.path / "link").symlink_to(outside.parent)
        for action in (folder.make, folder.names, folder.tidy):
            with pytest.raises(FileError, match="symbolic link"):
                action("link")
        with pytest.raises(FileError, match="symbolic link"):
            folder.remove("link/a")
        folder.remove("link")  # the link itself
        assert outside.exists() and not (folder.path / "link").exists()

    def test_a_link_that_comes_in_between_is_not_followed(
        self, outside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file when it was looked at is a link when it is opened."""
        folder = Folder(outside.parent.parent / "folder")
        (folder.path / "a").symlink_to(outside)
        monkeypatch.setattr(Folder, "_mode", lambda *_: stat.S_IFREG)
        for action in ("read", "append", "truncate", "lock"):
            with pytest.raises(FileError, match="a cannot be"):
                ACTIONS[action](folder, "a")
        ACTIONS["write"](folder, "a")  # takes the link's place
        assert outside.read_text() == "precious\n"
        assert (folder.path / "a").read_text() == "new"

    @pytest.mark.parametrize("action", ACTIONS)
    def test_pipes_and_directories_are_refused_at_once(self, action: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "inner").mkdir()
        with pytest.raises(FileError, match=r"pipe cannot be .*: it is no regular file"):
            ACTIONS[action](Folder(tmp_path), "pipe")
        with pytest.raises(FileError, match="it is a directory"):
            ACTIONS[action](Folder(tmp_path), "inner")

    def test_it_may_be_reached_through_a_link_itself(self, outside: Path) -> None:
        (outside.parent.parent / "link").symlink_to(outside.parent)
        folder = Folder(outside.parent.parent / "link")
        folder.append("a", "more\n")
        assert folder.read("a") == b"precious\nmore\n"
        folder.make("new")
        assert folder.names() == ["a", "new"]

    def test_what_a_killed_process_left_is_tidied_up(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.make("codes")
        for name in (".1a.tmp", "codes/.2b.tmp", "codes/3c.tmp", ".other"):
            (tmp_path / name).touch()
        folder.tidy("codes")
        left = sorted(path.name for path in tmp_path.rglob("*"))
        assert left == [".other", "3c.tmp", "codes"]

    def test_lines_are_whole_and_not_endless(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Folder(tmp_path)
        assert list(folder.lines("a")) == []
        folder.append("a", "1\n\n2\nhal")
        assert list(folder.lines("a")) == [(1, b"1"), (2, b""), (3, b"2")]
        with open(tmp_path / "a", "ab") as file:  # gigabytes, of which none is on the disk
            file.truncate(2**36)
        with pytest.raises(FileError, match="line 4 is too long"):
            list(folder.lines("a"))
        with pytest.raises(FileError, match="too large"):
            folder.read_json("a", ANYTHING)
        with pytest.raises(FileError, match="too large"):
            folder.read_arrays("a")
        with pytest.raises(FileError, match="too large"):
            folder.read_tensors("a")

    def test_a_lock_has_one_owner(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        assert not folder.is_locked("lock")
        held = folder.lock("lock")
        assert held is not None
        assert folder.is_locked("lock")
        assert folder.lock("lock") is None
        held.close()
        assert not folder.is_locked("lock")


class TestJson:
    def test_survives(self, tmp_path: Path) -> None:
        data = {"a": [1, 2.5, None, True, "é"], "b": {"c": 0.1 + 0.2}}
        write_json(tmp_path / "a.json", data)
        assert read_json(tmp_path / "a.json") == data
        assert json.loads((tmp_path / "a.json").read_text()) == data

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"{'a': 1}",
            b"\xff\xfe",
            b"[" * 100_000,
            b"[" * 50 + b"]" * 50,
            b"1" * 5000,
            b"[99999999999999999999]",
        ],
    )
    def test_a_damaged_file_is_named(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json"):
            read_json(tmp_path / "a.json")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        for path in (tmp_path / "a.json", tmp_path):
            with pytest.raises(UserError, match="cannot be read"):
                read_json(path)

    def test_data_that_are_no_json_leave_the_old_file(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", [1])
        with pytest.raises(TypeError):
            write_json(tmp_path / "a.json", {1, 2})
        assert read_json(tmp_path / "a.json") == [1]


def content_of(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


class TestTensors:
    def test_survive(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "a.pt", DATA)
        assert equal(read_tensors(tmp_path / "a.pt"), DATA)
        assert equal(torch.load(tmp_path / "a.pt", weights_only=True), DATA)

    def test_truncated_at_any_length_is_a_user_error(self, tmp_path: Path) -> None:
        whole = content_of(DATA)
        for length in range(0, len(whole), 7):
            (tmp_path / "a.pt").write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"a\.pt"):
                read_tensors(tmp_path / "a.pt")

    def test_any_flipped_bit_is_a_user_error_or_does_not_matter(self, tmp_path: Path) -> None:
        """Bits of padding and of time stamps do not matter; no bit may give other data."""
        whole = content_of(DATA)
        refused = 0
        for place in range(len(whole)):
            altered = bytearray(whole)
            altered[place] ^= 1 << (place % 8)
            (tmp_path / "a.pt").write_bytes(altered)
            try:
                read = read_tensors(tmp_path / "a.pt")
            except UserError:
                refused += 1
            else:
                assert equal(read, DATA), f"byte {place} of {len(whole)}"
        assert refused > len(whole) / 3

    @pytest.mark.parametrize("kind", ["saved", "inside", "plain"])
    def test_a_hostile_pickle_is_refused_and_not_run(self, kind: str, tmp_path: Path) -> None:
        trap = tmp_path / "run"
        hostile = Hostile(trap)
        content = {
            "saved": lambda: content_of(hostile),
            "inside": lambda: content_of({"weights": torch.ones(2), "extra": [hostile]}),
            "plain": lambda: pickle.dumps(hostile),
        }[kind]()
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.pt"):
            read_tensors(tmp_path / "a.pt")
        assert not trap.exists()

    @pytest.mark.parametrize("kind", ["empty", "text", "zip", "network"])
    def test_other_files_are_refused(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/b", "hello")
        elif kind == "network":
            torch.save(torch.nn.Linear(2, 2), path)  # a pickled module, as people often save
        else:
            path.write_bytes(b"" if kind == "empty" else b"hello")
        with pytest.raises(UserError, match=r"a\.pt") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        for path in (tmp_path / "a.pt", tmp_path):
            with pytest.raises(UserError, match="cannot be read"):
                read_tensors(path)


def rewritten(content: bytes, **changes: Any) -> bytes:
    """Return an archive with its parts written otherwise: how `zipfile` takes them, or other content by name."""
    kind = changes.pop("compression", zipfile.ZIP_STORED)
    anew = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(anew, "w", kind) as new:
        for name in old.namelist():
            part = old.read(name)
            for ending, change in changes.items():
                if name.endswith(ending):
                    part = change(part)
            new.writestr(name, part)
    return anew.getvalue()


def peak_of(function: Callable[[], object]) -> int:
    """Return the bytes that Python and NumPy allocate at most while a function runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestBombs:
    """Files that say they are larger than they are, or would be once unpacked."""

    def test_compressed_parts_are_refused_before_they_are_unpacked(self, tmp_path: Path) -> None:
        huge = content_of({"a": torch.zeros(30_000_000)})
        (tmp_path / "a.pt").write_bytes(rewritten(huge, compression=zipfile.ZIP_DEFLATED))
        del huge

        def read() -> None:
            with pytest.raises(FileError, match="compressed"):
                read_tensors(tmp_path / "a.pt")

        assert peak_of(read) < 10 * (tmp_path / "a.pt").stat().st_size < 10_000_000

    def test_compressed_arrays_are_refused(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))
        with pytest.raises(FileError, match="compressed"):
            Folder(tmp_path).read_arrays("a.npz")

    @pytest.mark.parametrize("size", ["(1000000000,)", "(-2, -2)", "(4, 10)"])
    def test_an_array_is_as_large_as_it_says(self, size: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", a=np.zeros(4))
        content = (tmp_path / "a.npz").read_bytes()

        def change(part: bytes) -> bytes:
            header = part[10 : 10 + part[8]].decode().rstrip().replace("(4,)", size)
            header = header.ljust(part[8] - 1) + "\n"
            return part[:10] + header.encode() + part[10 + part[8] :]

        (tmp_path / "a.npz").write_bytes(rewritten(content, **{"a.npy": change}))
        with pytest.raises(FileError, match="not as large as it says"):
            Folder(tmp_path).read_arrays("a.npz")

    def test_arrays_survive(self, tmp_path: Path) -> None:
        arrays = {
            "a": np.arange(6.0).reshape(2, 3).T,
            "b": np.array(True),
            "c": np.zeros((0, 3), dtype=np.int64),
        }
        folder = Folder(tmp_path)
        folder.write_arrays("a.npz", arrays)
        again = folder.read_arrays("a.npz")
        assert list(again) == list(arrays)
        for name, array in arrays.items():
            assert again[name].dtype == array.dtype
            np.testing.assert_array_equal(again[name], array)

    def test_a_tensor_is_no_larger_than_what_is_stored(self, tmp_path: Path) -> None:
        """A view of one number a million times would be filled when it is copied."""
        (tmp_path / "a.pt").write_bytes(content_of({"a": torch.zeros(1).expand(10**9)}))
        with pytest.raises(FileError, match="larger than what is stored"):
            read_tensors(tmp_path / "a.pt")

    def test_lists_that_hold_each_other_many_times_are_refused(self, tmp_path: Path) -> None:
        many: Any = ["x"]
        for _ in range(60):
            many = [many, many]
        deep: Any = []
        for _ in range(200):
            deep = [deep]
        around: dict[str, Any] = {}
        around["a"] = around
        for data in (many, deep, around):
            (tmp_path / "a.pt").write_bytes(content_of(data))
            with pytest.raises(FileError, match=r"values|nested"):
                read_tensors(tmp_path / "a.pt")

    def test_no_advice_on_unsafe_loading(self, tmp_path: Path) -> None:
        (tmp_path / "a.pt").write_bytes(content_of(Hostile(tmp_path / "run")))
        with pytest.raises(FileError) as caught:
            read_tensors(tmp_path / "a.pt")
        assert str(caught.value) == (
            f"{tmp_path / 'a.pt'} is damaged or no file of tensors: it holds more than tensors and plain data"
        )


class TestNetworkFiles:
    def saved(self, directory: Path, concat: tuple[int, ...] = (2, 3, 4, 5)) -> torch.nn.Module:
        cells = GENOTYPES["ISTA_onestage"].cells
        genotype = Genotype(
            DARTS_SPACE, tuple((kind, replace(cell, concat=concat)) for kind, cell in cells)
        )
        network = build_network(
            genotype, 4, 3, 5, in_channels=1, auxiliary=True, closing_norm="all", seed=3
        )
        network.train()(torch.randn(8, 1, 8, 8))
        save_network(network, directory / "network.pt", {"classes": ["a", "b"]})
        return network

    @pytest.mark.parametrize("concat", [(2, 3, 4, 5), (4, 5), (5, 3, 2, 4)])
    def test_a_network_computes_the_same_after_a_file(
        self, concat: tuple[int, ...], tmp_path: Path
    ) -> None:
        network = self.saved(tmp_path, concat).eval()
        loaded = load_network(tmp_path / "network.pt")
        assert not loaded.training
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(loaded(x), network(x))
        assert torch.equal(
            loaded(x, auxiliary=True).auxiliary, network(x, auxiliary=True).auxiliary
        )

    def test_the_file_is_a_plain_state_dict(self, tmp_path: Path) -> None:
        network = self.saved(tmp_path)
        state = torch.load(tmp_path / "network.pt", weights_only=True)
        expected = network.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)

    def test_saving_leaves_the_network_as_it_is(self, tmp_path: Path) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 2, 3, 5, in_channels=1).train()
        network(torch.randn(4, 1, 8, 8)).sum().backward()
        save_network(network, tmp_path / "network.pt")
        assert network.training
        assert network.classifier.weight.grad is not None

    @pytest.mark.parametrize(
        "damage",
        [
            "no description",
            "other genotype",
            "other width",
            "no genotype",
            "a list",
            "unknown option",
            "bad option",
            "other tensors",
            "no state",
            "values instead of tensors",
        ],
    )
    def test_files_that_do_not_fit_are_user_errors(self, damage: str, tmp_path: Path) -> None:
        network = self.saved(tmp_path)
        state_file, description_file = tmp_path / "network.pt", tmp_path / "network.json"
        description = read_json(description_file)
        options = description["options"]
        if damage == "no description":
            description_file.unlink()
        elif damage == "other tensors":
            write_tensors(state_file, {"weight": torch.ones(2)})
        elif damage == "no state":
            write_tensors(state_file, torch.ones(2))
        elif damage == "values instead of tensors":
            write_tensors(state_file, dict.fromkeys(network.state_dict(), 1.0))
        else:
            changes = {
                "other genotype": {"genotype": GENOTYPES["DARTS_V2"].to_json()},
                "other width": {"options": {**options, "channels": 6}},
                "no genotype": {"genotype": None},
                "a list": None,
                "unknown option": {"options": {**options, "depth": 3}},
                "bad option": {"options": {**options, "cells": "many"}},
            }[damage]
            write_json(description_file, [] if changes is None else {**description, **changes})
        with pytest.raises(UserError) as caught:
            load_network(state_file)
        assert "\n" not in str(caught.value)
