"""Suggestions for what is nearly right, wherever a command takes words."""

from __future__ import annotations

import pytest

from experiments import _command as experiment
from figures import _command as figure
from isnas.cli import main
from isnas.runtime.errors import with_suggestion


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unrecognized arguments: --sed=3", "; did you mean --seed?"),
        ("unrecognized arguments: --sed 3", "; did you mean --seed?"),
        ("unrecognized arguments: --zzz", ""),
        ("unrecognized arguments: --lam 3", ""),
        ("unrecognized arguments: --random 0", "; did you mean --random-architectures?"),
        ("unrecognized arguments: --batch=3", "; did you mean --batch-size?"),
        ("unrecognized arguments: stray", ""),
        ("argument X: invalid choice: 'lst' (choose from 'list', 'draw')", "; did you mean list?"),
        ("argument X: invalid choice: 'lst' (choose from list, draw)", "; did you mean list?"),
        ("argument --seed: invalid int value: 'x'", ""),
    ],
)
def test_messages_of_argparse(message: str, expected: str) -> None:
    known = ["--help", "--seed", "--out", "--layout", "--random-architectures", "--batch-size"]
    assert with_suggestion(message, known) == message + expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lst", "did you mean list?"),
        ("list --jsn", "did you mean --json?"),
        ("check-data . --splt 0.5", "did you mean --split?"),
        ("search --sedes 3", "did you mean --seeds?"),
        ("search --space dart", "did you mean darts?"),
        ("search --method gdsa", "did you mean gdas?"),
        ("search --data digit --device cpu --out nowhere", "did you mean digits?"),
        ("search --preset papr", "did you mean paper?"),
        ("evaluate --genotype ISTA_onestag", "did you mean ISTA_onestage?"),
        ("search --random 0", "did you mean --random-architectures?"),
        (
            "search --space recurrent --channels 3",
            "--channels is an option of the spaces darts, nasbench201, chain, macro, not of recurrent (see ",
        ),
        ("compare --method random", "did you mean --methods?"),
        ("train --task=language --cutout=3", "cutout is an option of the spaces darts, "),
        ("compare --layers 3", "--layers is an option of the space macro, not of darts (see "),
        ("check-data x --space recurrent --split 1", "--split is an option of the spaces darts, "),
        (
            "search --method random --lam 3",
            "--lam is an option of the methods ista-two-stage, ista-finalists, ista-one-stage, not of random (see ",
        ),
    ],
)
def test_the_command(words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(words.split())
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1


def test_figures_and_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        figure.Parser("seeds", "text").parse_args(["--otu", "x.svg"])
    assert "did you mean --out?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        made = experiment.Parser("experiments.one", "text", ["smoke"])
        made.parse_args(["--scale", "smoke", "--sedes", "3"])
    assert "did you mean --seeds?" in capsys.readouterr().err
