"""The command: what it prints, what it writes, and how it takes mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import isnas
from isnas.cli import main, show_warning

TINY = ["--channels", "2", "--cells", "3", "--batch-size", "240", "--device", "cpu"]


def run(*arguments: str | Path) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's way
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one-stage run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = [*TINY, "--search-epochs", "2", "--epochs", "2", "--out", out, "--quiet"]
    assert run("train", *options) == 0
    return out


def test_search_shows_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--epochs", "2", "--evaluation-epochs", "1", "--random-architectures", "2"]
    assert run("search", *TINY, *options, "--out", out) == 0
    shown = capsys.readouterr()
    for word in ("epoch 1/2", "train loss", "valid loss", "accuracy", "left", "supports changed"):
        assert word in shown.err
    genotype = isnas.Genotype.load(out / "genotype.json")
    assert str(genotype) in shown.out
    network = isnas.load_network(out / "network.pt")
    assert f"parameters: {isnas.count_parameters(network):,}" in shown.out
    assert "test accuracy: " in shown.out
    assert "2 random architectures trained the same way" in shown.out
    assert str(out) in shown.out
    expected = {"config.json", "genotype.json", "network.pt", "cells.svg", "metrics.jsonl"}
    assert expected <= {path.name for path in out.iterdir()}
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["epochs"] == 2
    assert config["versions"]["torch"] == torch.__version__


def test_train_ends_with_the_folded_network_on_disk(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((trained / "results.json").read_text())["search"]
    assert results["folding_error"] <= 1e-5
    genotype = isnas.Genotype.load(trained / "genotype.json")
    network = isnas.build_network(
        genotype, channels=2, cells=3, in_channels=1, closing_norm="all"
    )  # from the genotype alone
    network.load_state_dict(torch.load(trained / "network.pt", weights_only=True))
    assert run("evaluate", "--network", trained / "network.pt") == 0
    shown = capsys.readouterr().out
    assert f"test accuracy: {100 * results['test_accuracy']:.2f} % of 360 images" in shown


def test_train_prints_the_folding_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", *TINY, "--search-epochs", "1", "--epochs", "1", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "largest relative difference between super-net and folded network" in shown


def test_evaluate_trains_a_genotype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    chosen = ["--genotype", "DARTS_V2", "--epochs", "1", "--out", out]
    assert run("evaluate", *TINY, *chosen) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert isnas.Genotype.load(out / "genotype.json") == isnas.GENOTYPES["DARTS_V2"]


@pytest.mark.slow
@pytest.mark.parametrize(("closing_norm", "parameters"), [("all", 3_371_806), ("none", 3_363_598)])
def test_evaluate_builds_the_published_one_stage_network(
    closing_norm: str, parameters: int, tmp_path: Path
) -> None:
    """With batch norms behind pooling and skips, as its authors evaluate it, and without."""
    for split in ("train", "val"):
        for k in range(10):
            folder = tmp_path / "data" / split / f"{k}"
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(folder / "0.png")
    out = tmp_path / "run"
    words = ["--data", tmp_path / "data", "--preset", "paper", "--closing-norm", closing_norm]
    words += ["--epochs", "1", "--batch-size", "10", "--cutout", "0", "--out", out]
    assert run("evaluate", "--genotype", "ISTA_onestage", *words) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["evaluate"]["parameters"] == parameters


def test_a_saved_network_can_be_trained_further(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    network = trained / "network.pt"
    assert run("evaluate", "--network", network, "--epochs", "1", "--out", out) == 0
    assert "test accuracy" in capsys.readouterr().out
    before, after = (torch.load(p / "network.pt", weights_only=True) for p in (trained, out))
    assert list(before) == list(after)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, n in (("train", 8), ("val", 2)):
        for k, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                colour = (200 * k, 10 * i, 255 - 200 * k)
                Image.new("RGB", (20 + i, 17), colour).save(folder / f"{i}.png")
    options = ["--data", tmp_path / "pets", "--batch-size", "4", "--channels", "2", "--cells", "3"]
    short = ["--search-epochs", "1", "--epochs", "1", "--out", tmp_path / "run"]
    assert run("train", *options, *short) == 0
    assert "2 classes" in capsys.readouterr().err
    description = json.loads((tmp_path / "run" / "network.json").read_text())
    assert description["data"]["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_draw(suffix: str, tmp_path: Path) -> None:
    picture = tmp_path / "new" / f"cells.{suffix}"
    assert run("draw", "--genotype", "ISTA_onestage", "--out", picture) == 0
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("space", [[], ["--space", "chain"]])
def test_a_genotype_may_be_its_text(space: list[str], tmp_path: Path) -> None:
    options = ["--genotype", "01221100", "--out", tmp_path / "run", "--quiet", "--channels", "2"]
    short = ["--features", "8", "--epochs", "1", "--batch-size", "480", "--device", "cpu"]
    assert run("evaluate", *space, *options, *short) == 0
    assert str(isnas.Genotype.load(tmp_path / "run" / "genotype.json")) == "01221100"
    assert run("draw", *space, "--genotype", "01221100", "--out", tmp_path / "a.svg") == 0
    assert "mb6_conv_5x5" in (tmp_path / "a.svg").read_text()


def test_draw_of_a_network_into_a_directory(trained: Path, tmp_path: Path) -> None:
    assert run("draw", "--network", trained / "network.pt", "--out", tmp_path) == 0
    assert (tmp_path / "cells.svg").exists()


def test_report(trained: Path, tmp_path: Path) -> None:
    assert run("report", trained, "--out", tmp_path / "page.html") == 0
    assert "data:image/svg+xml" in (tmp_path / "page.html").read_text()


def test_a_saved_network_is_tested_at_its_own_image_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40), (90 * i, 0, 0)).save(tmp_path / "folder" / name / f"{i}.png")
    data = ["--data", tmp_path / "folder", "--image-size", "12"]
    short = [
        "--search-epochs",
        "1",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--quiet",
        "--out",
        tmp_path / "run",
    ]
    assert run("train", *TINY, *data, *short) == 0
    sizes = re.search("multiply-adds: [0-9,]+", capsys.readouterr().out)[0]
    assert run("evaluate", "--network", tmp_path / "run" / "network.pt") == 0
    shown = capsys.readouterr()
    assert "12x12 pixels" in shown.err
    assert sizes in shown.out


def test_more_epochs_for_a_finished_run_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "config.json").read_bytes()
    assert run("resume", trained, "--epochs", "9") == 2
    assert "is finished" in capsys.readouterr().err
    assert run("resume", trained, "--device", "cuda:99") == 2
    assert (trained / "config.json").read_bytes() == before


def test_a_mistake_that_shows_late_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*TINY, "--search-epochs", "1", "--epochs", "1", "--quiet", "--out", out]
    assert run("train", *options, "--limit", "parameters=10") == 2
    assert not out.exists()
    assert run("train", *options) == 0


def test_a_directory_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network.pt").write_text("mine")
    assert run("train", *TINY, "--out", tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]


def test_a_network_of_no_numbers_is_said(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(trained / "network.pt", weights_only=True)
    state["classifier.bias"].fill_(float("nan"))
    torch.save(state, tmp_path / "network.pt")
    (tmp_path / "network.json").write_bytes((trained / "network.json").read_bytes())
    assert run("evaluate", "--network", tmp_path / "network.pt") == 2
    assert "no finite loss" in capsys.readouterr().err


def test_tensorboard_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    options = ["--search-epochs", "1", "--epochs", "2", "--tensorboard", "--out", out]
    assert run("train", *TINY, *options, "--quiet") == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["train_loss"] for line in lines if "step" not in line]
    assert [e.value for e in events.Scalars("search/train_loss/epoch")] == pytest.approx(epochs)
    assert [e.step for e in events.Scalars("search/train_loss/step")] == list(range(15))


def test_quiet_shows_the_results_only(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--network", trained / "network.pt", "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert len(shown.out.splitlines()) == 2


MISTAKES = {
    "unknown command": (["serach"], "serach"),
    "no command": ([], "COMMAND"),
    "unknown option": (["search", "--epoch", "3"], "did you mean --epochs?"),
    "unknown space": (["search", "--space", "dart"], "did you mean darts?"),
    "unknown method": (["search", "--method", "dart-1"], "did you mean darts-1?"),
    "option of another method": (["search", "--order", "2"], "--order"),
    "as many measurements as candidates": (["search", "--m", "14"], "below the 14 candidates"),
    "not a number": (["search", "--epochs", "many"], "many"),
    "too small": (["search", "--epochs", "0"], "epochs must be at least 1, got 0"),
    "not finite": (["search", "--learning-rate", "nan"], "learning_rate must be finite"),
    "wrong choice": (["search", "--rule", "best"], "best_subset"),
    "wrong preset": (["train", "--preset", "huge"], "paper"),
    "lengths": (["search", "--m", "7,8"], "m has 2 values; a cell has 4 nodes"),
    "s too large": (["search", "--s", "15"], "at most the 14 candidates of node 0, got 15"),
    "no such data": (["search", "--data", "nowhere"], "nowhere"),
    "no such device": (["search", "--device", "tpu"], "tpu"),
    "no such genotype": (["draw", "--genotype", "ISTA_9"], "ISTA_onestage"),
    "short genotype": (["draw", "--genotype", "0122"], "has 4 layers; expected 8 digits"),
    "wrong digit": (["evaluate", "--genotype", "01231100"], "the unknown operation '3'"),
    "genotype of another space": (
        ["evaluate", "--space", "darts", "--genotype", "01221100"],
        "not of the form Genotype(normal=",
    ),
    "space of a network": (
        ["draw", "--space", "darts", "--network", "RUN/network.pt"],
        "a network knows its own",
    ),
    "no such network": (["evaluate", "--network", "none.pt"], "none.pt cannot be read"),
    "training option": (["evaluate", "--network", "RUN/network.pt", "--clip", "1"], "--epochs"),
    "nothing to evaluate": (["evaluate"], "--genotype"),
    "no run": (["resume", "."], "no config.json"),
    "no run to report": (["report", "nowhere"], "nowhere"),
    "run there already": (["train", "--out", "RUN"], "isnas resume"),
    "wrong picture": (["draw", "--genotype", "DARTS_V2", "--out", "a.gif"], ".svg"),
    "cifar not there": (["search", "--data", "cifar10"], "--download"),
    "its own shape": (["evaluate", "--network", "RUN/network.pt", "--cells", "4"], "--cells"),
    "nothing to write": (["evaluate", "--network", "RUN/network.pt", "--out", "x"], "--out"),
    "report into a directory": (["report", "RUN", "--out", "."], "it is a directory"),
    "report into nowhere": (["report", "RUN", "--out", "no/a.html"], "no/a.html cannot be written"),
    "name of a page too long": (["report", "RUN", "--out", "n" * 300], "File name too long"),
    "name of a run too long": (["resume", "n" * 300], "File name too long"),
    "name of a network too long": (["evaluate", "--network", "n" * 300], "File name too long"),
    "name of a genotype too long": (["draw", "--genotype", "n" * 300], "File name too long"),
    "name that would colour": (["resume", "\x1b[31m\n"], r"\x1b[31m\n holds no run"),
    "network of no run": (["evaluate", "--network", "."], "holds no trained network"),
    "why no GPU": (["search", "--device", "gpu"], "there is no such device"),
    "misspelt command": (["serch"], "did you mean search?"),
    "rising rate": (["train", "--min-learning-rate", "1"], "at most learning_rate"),
    "other classes": (["evaluate", "--network", "RUN/network.pt", "--data", "FOLDER"], "classes"),
}


@pytest.mark.parametrize(("arguments", "word"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_clear_line(
    arguments: list[str],
    word: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "folder" / name / "0.png")
    places = {"RUN": str(trained), "FOLDER": "folder"}
    given = []
    for argument in arguments:
        for name, place in places.items():
            argument = argument.replace(name, place)
        given.append(argument)
    before = sorted(tmp_path.rglob("*"))
    assert run(*given) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert word in shown.err
    assert sorted(tmp_path.rglob("*")) == before, "a mistake leaves nothing behind"


def test_warnings_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    torch_file, own_file = torch.__file__, isnas.__file__
    show_warning(DeprecationWarning("old"), DeprecationWarning, torch_file, 1)
    show_warning(FutureWarning("soon old"), FutureWarning, torch_file, 1)
    assert capsys.readouterr().err == ""
    show_warning(UserWarning("slow\x1b[1m"), UserWarning, torch_file, 1)
    show_warning(UserWarning("mine"), UserWarning, own_file, 1)
    assert capsys.readouterr().err == "torch: warning: slow\\x1b[1m\nisnas: warning: mine\n"


def test_a_damaged_network_is_one_clear_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("network.pt", "network.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    content = (tmp_path / "network.pt").read_bytes()
    (tmp_path / "network.pt").write_bytes(content[: len(content) // 2])
    assert run("evaluate", "--network", tmp_path / "network.pt") == 2
    shown = capsys.readouterr()
    assert "damaged" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_unwritable_directory_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("train", *TINY, "--out", tmp_path / "file" / "run") == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_module_and_interruption(tmp_path: Path) -> None:
    """`python -m isnas` is the command; SIGINT ends it with the command that goes on."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "isnas", "train", *TINY, "--epochs", "200", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 2/" in line:
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert f"isnas resume {out}" in rest
    assert "Traceback" not in rest


def test_compare_writes_rows_table_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--methods", "reinforce", "--seeds", "1", "--sampled", "0", "--no-hand-made"]
    few += ["--budget", "1images"]
    short = ["--child-epochs", "1", "--evaluation-epochs", "1"]
    words = ["compare", *TINY, *few, *short, "--set", "reinforce.hidden=4"]
    words += ["--set", "reinforce.policy_batch=2", "--out", tmp_path]
    assert run(*words) == 0
    shown = capsys.readouterr()
    assert "1/1  reinforce, seed 0: " in shown.err
    assert "| reinforce | 1 |" in shown.out
    assert {path.name for path in tmp_path.iterdir()} >= {
        "about.json",
        "compare.svg",
        "rows.jsonl",
        "table.md",
    }
    about = json.loads((tmp_path / "about.json").read_text())
    # both of --set count
    assert about["settings"]["set"] == ["reinforce.hidden=4", "reinforce.policy_batch=2"]
    assert "compare --channels 2" in about["launches"][0]["command"]
    assert run(*words) == 0
    assert "1 of 1 trials are done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "nas"], "no method is called 'nas'; did you mean "),
        (["--methods", "random,darts-1"], "methods are separated by spaces, "),
        (["--seeds", "10001"], "seeds must be at most 10000, got 10001"),
        (
            ["--methods", "reinforce", "--set", f"reinforce.hidden={'9' * 30}"],
            "hidden must be at most ",
        ),
        (["--budget", "20"], "budget must be an amount above 0 and a unit"),
        (["--set", "random.people=1"], "random has no option 'people'"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--methods", "random", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--methods", "pc-darts"], "channels must be a multiple of partial"),
        (["--methods", "hm-nas", "--set", "hm-nas.mask_share=2.0"], "must be below 1"),
        (["--methods", "random", "--scheduler", "here:1"], "choose backend dask or ray"),
    ],
)
def test_mistakes_in_comparing_take_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *TINY, *words, "--out", tmp_path / "new") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "new").exists()


def test_an_interrupted_comparison_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("isnas.cli.compare", stop)
    assert run("compare", "--out", tmp_path) == 130
    expected = f"interrupted; the same command goes on with --out {tmp_path}\n"
    assert capsys.readouterr().err == expected
