"""Files are written whole or not at all, and a damaged or hostile one is a clear error and nothing more."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import build_network

from isnas import DARTS_SPACE, GENOTYPES, Genotype, UserError, load_network, save_network
from isnas.runtime.files import read_json, read_tensors, write_atomically, write_json, write_tensors

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

        def fail(*_: object) -> None:
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

        def look(source: Path, target: Path) -> None:
            seen.append((Path(source).read_text(), Path(target).read_text()))
            rename(source, target)

        monkeypatch.setattr(os, "replace", look)
        write_atomically(tmp_path / "a", "new")
        assert seen == [("new", "old")]

    @pytest.mark.parametrize("place", ["missing/a", "file/a", "directory"])
    def test_an_impossible_place_is_a_user_error(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "directory").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="cannot be written"):
            write_atomically(tmp_path / place, "new")
        assert sorted(tmp_path.rglob("*")) == before


class TestJson:
    def test_survives(self, tmp_path: Path) -> None:
        data = {"a": [1, 2.5, None, True, "é"], "b": {"c": 0.1 + 0.2}}
        write_json(tmp_path / "a.json", data)
        assert read_json(tmp_path / "a.json") == data
        assert json.loads((tmp_path / "a.json").read_text()) == data

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"[" * 100_000, b"1" * 5000]
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
