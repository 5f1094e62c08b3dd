"""Exported networks: they compute what the network computes, and need nothing of isnas."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pictures import photograph, picture
from PIL import Image

import isnas
from isnas.cli import main
from isnas.codes.choices import Choices
from isnas.deployment import export, loaders
from isnas.networks.registry import family
from isnas.tasks.images import Preparation

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
SLOW_FORMATS = [
    pytest.param(name, marks=pytest.mark.slow if name != "safetensors" else []) for name in SUFFIXES
]
SPACES = [name for name, space in isnas.SPACES.items() if space().task == "images"]
CLASSES = ["a 'cat'", 'a "dog"\n', "émeu"]
DATA = {"classes": CLASSES, "size": [10, 10], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(place: Path, fill_norms, space: str = "nasbench201", **shape: object) -> Path:
    """Save a network with weights and statistics of its own."""
    space = isnas.get_space(space)
    genotype = Choices(space).random(torch.Generator().manual_seed(1))
    least = family(space).options.least
    small = {"channels": 4, "cells": least.get("cells")}
    shape = {name: value for name, value in small.items() if name in least} | shape
    network = isnas.build_network(genotype, classes=len(CLASSES), in_channels=3, **shape)
    fill_norms(network, 1)
    isnas.save_network(network, place / "network.pt", DATA)
    return place / "network.pt"


@pytest.mark.parametrize("format", SLOW_FORMATS)
@pytest.mark.parametrize("space", SPACES)
def test_every_spaces_networks_are_exported(
    space: str, format: str, tmp_path: Path, fill_norms
) -> None:
    path = saved(tmp_path, fill_norms, space)
    done = export.export_network(path, format)
    assert done.path == tmp_path / f"network{SUFFIXES[format]}"
    assert done.difference <= 1e-5 * done.largest
    check_loader(done, path, tmp_path)


@pytest.mark.parametrize("format", SLOW_FORMATS)
def test_a_folded_network_is_exported(format: str, train_run: Path, tmp_path: Path) -> None:
    done = export.export_network(train_run, format, tmp_path / f"a{SUFFIXES[format]}")
    assert done.difference <= 1e-5 * done.largest
    check_loader(done, train_run, tmp_path)


def check_loader(done: export.Exported, network: Path, place: Path) -> None:
    """Check that a loader says of images what the classifier says."""
    classifier = isnas.load_classifier(network)
    loader = imported(done.loader)
    assert tuple(loader.CLASSES) == classifier.classes
    for i in range(3):
        file = place / f"{i}.png"
        picture(i, (14, 11 + i)).save(file)
        assert np.array_equal(loader.prepare(file), classifier.preprocess(file).numpy())
        expected = classifier(file)
        found = loader.predict(file)
        assert [name for name, _ in found] == [name for name, _ in expected.top(99)]
        assert [p for _, p in found] == pytest.approx([p for _, p in expected.top(99)], abs=1e-5)


def test_onnx_holds_what_is_needed_to_use_it(tmp_path: Path, fill_norms) -> None:
    import onnx
    import onnxruntime

    path = saved(tmp_path, fill_norms)
    done = export.export_network(path, "onnx", with_normalization=True)
    content = done.path.read_bytes()
    assert b"/isnas/" not in content  # no paths of the machine
    session = onnxruntime.InferenceSession(content)
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 3, 10, 10],
    )
    assert (got.name, got.type, got.shape) == ("logits", "tensor(float)", ["batch", 3])
    facts = {each.key: each.value for each in onnx.load_from_string(content).metadata_props}
    assert json.loads(facts["classes"]) == CLASSES
    preparation = json.loads(facts["preparation"])
    assert (preparation["size"], preparation["crop"]) == (10, "pad")
    assert (preparation["mean"], preparation["std"]) == (DATA["mean"], DATA["std"])
    network = isnas.load_network(path)
    assert isnas.Genotype.from_json(json.loads(facts["genotype"])) == isnas.Genotype.of(network)
    pixels = np.stack([np.asarray(picture(i, (10, 10))).transpose(2, 0, 1) for i in range(5)])
    expected = isnas.load_classifier(path)(torch.tensor(pixels))
    scores = torch.tensor(session.run(None, {"images": pixels})[0])
    assert np.allclose(scores.softmax(1), [e.probabilities for e in expected], atol=1e-6)
    loader = imported(done.loader)
    picture(7, (20, 30)).save(tmp_path / "a.png")
    assert loader.prepare(tmp_path / "a.png").dtype == np.uint8
    expected = isnas.load_classifier(path)(tmp_path / "a.png")
    assert loader.predict(tmp_path / "a.png")[0] == (
        expected.label,
        pytest.approx(expected.probability, abs=1e-6),
    )


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_fixed_batch_is_as_large_as_asked(format: str, tmp_path: Path, fill_norms) -> None:
    path = saved(tmp_path, fill_norms)
    done = export.export_network(path, format, tmp_path / "new" / "a.bin", batch_size=3)
    assert done.images == 3
    loader = imported(tmp_path / "new" / "a_bin.py")
    images = np.zeros((4, 3, 10, 10), dtype=np.float32)
    assert loader.scores(images[:3]).shape == (3, 3)
    with pytest.raises(Exception, match=r"\b3\b"):
        loader.scores(images)
    picture(7, (20, 30)).save(tmp_path / "a.png")
    assert loader.predict(tmp_path / "a.png")[0][0] in CLASSES


@pytest.mark.slow
def test_torch_export_holds_the_facts(tmp_path: Path, fill_norms) -> None:
    done = export.export_network(saved(tmp_path, fill_norms), "torch-export")
    assert b"/isnas/" not in done.path.read_bytes().replace(b"/extra/isnas.json", b"")
    extra = {"isnas.json": ""}
    torch.export.load(done.path, extra_files=extra)
    assert json.loads(json.loads(extra["isnas.json"])["classes"]) == CLASSES


def test_safetensors_holds_the_state_by_its_names(tmp_path: Path, fill_norms) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = saved(tmp_path, fill_norms, "darts", auxiliary=True)
    done = export.export_network(path, "safetensors")
    state, own = load_file(done.path), torch.load(path, weights_only=True)
    own = {key: value for key, value in own.items() if not key.startswith("auxiliary_head.")}
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in own)
    with safe_open(done.path, "pt") as file:
        assert json.loads(file.metadata()["classes"]) == CLASSES


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_plain_module_is_the_network_in_training_too(
    stem: str, tmp_path: Path, fill_norms
) -> None:
    path = saved(tmp_path, fill_norms, "darts", stem=stem)
    loader = imported(export.export_network(path, "safetensors").loader)
    for training, size in ((False, 17), (True, 32)):
        x = torch.randn(4, 3, size, size)
        found = []
        for network in (isnas.load_network(path), loader.load()):
            loss = network.train(training)(x).square().sum()
            loss.backward()
            found.append((loss, next(network.parameters()).grad))
        assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
        difference = found[0][1] - found[1][1]
        assert difference.abs().max() <= 1e-4 * found[0][1].abs().max()


def test_a_node_that_nothing_reaches_is_zero_there_too(tmp_path: Path) -> None:
    cell = "|none~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    genotype = isnas.Genotype.parse(cell, isnas.NASBENCH201_SPACE)
    network = isnas.build_network(genotype, channels=2, cells=1, classes=3)
    isnas.save_network(network, tmp_path / "network.pt", DATA)
    done = export.export_network(tmp_path, "safetensors")
    assert done.difference == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_plain_module_is_for_torchscript_and_the_old_exporter(
    tmp_path: Path, fill_norms
) -> None:
    import onnxruntime

    path = saved(tmp_path, fill_norms, "darts")
    network = imported(export.export_network(path, "safetensors").loader).load()
    x = torch.randn(2, 3, 10, 10)
    expected = network(x).detach()
    assert torch.allclose(torch.jit.script(network)(x), expected, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old exporter
        torch.onnx.export(network, (x,), str(tmp_path / "old.onnx"), dynamo=False)
    session = onnxruntime.InferenceSession(tmp_path / "old.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
def test_loaders_need_no_isnas(format: str, tmp_path: Path, fill_norms) -> None:
    path = saved(tmp_path, fill_norms)
    done = export.export_network(path, format)
    picture(3, (12, 15)).save(tmp_path / "a.png")
    expected = isnas.load_classifier(path)(tmp_path / "a.png")
    # as `python network_onnx.py a.png`, where there is no isnas
    code = "import runpy, sys; sys.modules['isnas'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.argv = sys.argv[1:]; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code, done.loader.name, "a.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    line = f"a.png: {expected.label} {100 * expected.probability:.2f} %\n"
    assert done.stdout == line and done.stderr == ""


FACTS = loaders.Facts(
    "a.onnx",
    "1",
    ("a", "b"),
    Preparation(9, "pad", "rgb", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    None,
    False,
)


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_loaders_prepare_images_bit_for_bit(crop: str, colour: str, tmp_path: Path) -> None:
    channels = 3 if colour == "rgb" else 1
    preparation = Preparation(
        9, crop, colour, (0.1, 0.2, 0.3)[:channels], (0.4, 0.5, 0.6)[:channels]
    )
    text = loaders.loader(
        replace(FACTS, preparation=preparation), ["numpy"], "def scores(images):\n    pass"
    )
    (tmp_path / "loader.py").write_text(text)
    prepare = imported(tmp_path / "loader.py").prepare
    tagged = Image.Exif()
    tagged[0x0112] = 8
    photograph(1, (300, 217)).save(tmp_path / "turned.jpg", exif=tagged)
    photograph(1, (100, 77)).save(tmp_path / "turned.tif", exif=tagged)
    photograph(1, (40, 77)).save(tmp_path / "turned.png", exif=tagged)
    photograph(6, (160, 120)).save(tmp_path / "large.jpg")
    picture(5, (12, 16), "CMYK").save(tmp_path / "print.jpg")
    photograph(1, (9, 9)).save(tmp_path / "fits.png")
    picture(2, (21, 33), "RGBA").save(tmp_path / "transparent.png")
    picture(3, (124, 24), "LA").save(tmp_path / "grey.png")
    picture(4, (25, 20), "P").save(tmp_path / "palette.png", transparency=3)
    deep = np.arange(900, dtype=np.uint16).reshape(30, 30) * 70
    Image.fromarray(deep).save(tmp_path / "deep.png")
    files = [file for file in sorted(tmp_path.iterdir()) if file.suffix != ".py"]
    assert len(files) == 10
    for file in files:
        assert np.array_equal(prepare(file), preparation(file).numpy()), file


def test_loaders_of_many_classes_and_odd_names_are_python(tmp_path: Path) -> None:
    classes = (*map(str, range(20)), 'quote"""', "line\nbreak", "\\", "\ud800")
    facts = replace(FACTS, classes=classes, file='a"""\\.onnx')
    text = loaders.loader(facts, [], "def scores(images):\n    pass")
    (tmp_path / "loader.py").write_text(text)
    loader = imported(tmp_path / "loader.py")
    assert tuple(loader.CLASSES) == classes
    assert tmp_path / 'a"""\\.onnx' == loader.FILE


def test_what_differs_is_not_written(
    tmp_path: Path, fill_norms, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, fill_norms)
    kind = export.FORMATS["safetensors"]

    def altered(exportable):
        with torch.no_grad():
            exportable.network.classifier.bias += 1e-2
        return kind.write(exportable)

    monkeypatch.setitem(export.FORMATS, "safetensors", replace(kind, write=altered))
    with pytest.raises(isnas.UserError, match=r"by 1\.0e-02 .* nothing was written"):
        export.export_network(path, "safetensors")
    assert {file.name for file in tmp_path.iterdir()} == {"network.pt", "network.json"}


def test_the_command_says_what_it_wrote(
    tmp_path: Path, fill_norms, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, fill_norms)
    assert main(["export", str(tmp_path), "--format", "safetensors"]) == 0
    shown = capsys.readouterr()
    size = (tmp_path / "network.safetensors").stat().st_size
    first, second, third = shown.out.splitlines()
    assert first == f"written to {tmp_path}/network.safetensors ({size:,} bytes)"
    assert "on 6 random images: largest difference from the network 0.0e+00" in second
    assert f"python {tmp_path}/network_safetensors.py IMAGES" in third
    assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "NETWORK"),
        (["export", "."], "holds no trained network"),
        (["export", "NETWORK", "--format", "onxx"], "did you mean onnx?"),
        (["export", "NETWORK", "--batch-size", "0"], "batch_size must be at least 1, or dynamic"),
        (["export", "NETWORK", "--batch-size", "all"], "expected a whole number or dynamic"),
        (
            ["export", "NETWORK", "--format", "safetensors", "--batch-size", "2"],
            "batch_size is for",
        ),
        (
            ["export", "NETWORK", "--format", "safetensors", "--with-normalization"],
            "with_normalization is for onnx and torch-export",
        ),
        (
            ["export", "NETWORK", "--out", "mine.onnx"],
            "mine_onnx.py is there already and not by isnas",
        ),
        (["export", "NETWORK", "--format", "safetensors", "--out", "mine_onnx.py/a"], "cannot be"),
    ],
)
def test_a_mistake_is_one_clear_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    fill_norms,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_onnx.py").write_text("# mine\n")
    (tmp_path / "run").mkdir()
    path = saved(tmp_path / "run", fill_norms)
    before = sorted(tmp_path.rglob("*"))
    try:
        status = main([str(path) if word == "NETWORK" else word for word in words])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2 and shown.out == ""
    assert len(shown.err.splitlines()) == 1 and message in shown.err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_installed_is_one_line_with_the_command(
    tmp_path: Path, fill_norms, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, fill_norms)
    find = importlib.util.find_spec
    missing = ("onnxscript", "onnxruntime")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name in missing else find(name, *more),
    )
    assert main(["export", str(path)]) == 2
    expected = (
        "isnas: error: onnx needs onnxscript, onnxruntime: pip install onnxscript onnxruntime "
        "(or isnas[export])\n"
    )
    assert capsys.readouterr().err == expected
