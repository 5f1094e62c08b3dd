"""The report: one page, whole, that fetches nothing; checked in a browser where there is one."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from figures import report
from isnas import DARTS_SPACE, METHODS
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError

_EMPTY = {"meta", "img"}


class Page(HTMLParser):
    """Checks that all elements are closed in order, and collects them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(params=["train", "search"])
def run(request: pytest.FixtureRequest) -> RunRecord:
    """Return each of the tiny runs."""
    return RunRecord(request.getfixturevalue(f"{request.param}_run"))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take their time, where only the rest matters."""
    monkeypatch.setattr(report, "picture", lambda *_: "<figure></figure>")


def headings(text: str) -> list[str]:
    """Return a page's sections."""
    return re.findall("<h2>(.*?)</h2>", text)


def test_page(run: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write_report(run.directory, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    wrong = [each for each in pictures if each.startswith("data:image/png;base64,")]
    assert len(wrong) == 12  # of a network that has learnt next to nothing
    drawn = [each for each in pictures if each not in wrong]
    assert len(drawn) == 4
    for picture in drawn:
        head, _, content = picture.partition(",")
        assert head == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(content))
    # nothing is fetched: no scripts, no links, no addresses
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"} == set()
    assert "url(" not in text
    assert "http" not in text
    assert html.escape(str(run.genotype)) in text
    freezing = (
        [] if "found" in run.results else ["Freezing"]
    )  # where nothing freezes there is nothing to see
    expected = ["Architecture", "Results", "Test", "Training", *freezing, "Sparsity"]
    assert [head for head in headings(text) if head != "Comparison"] == [
        *expected,
        "Configuration",
        "To do it again",
    ]
    for name in run.options:
        assert f">{name}</th>" in text


@pytest.mark.usefixtures("no_pictures")
def test_results_are_shown(search_run: Path) -> None:
    text = report.page(RunRecord(search_run))
    results = json.loads((search_run / "results.json").read_text())
    assert f">{results['found']['parameters']:,}</td>" in text
    for part in ("found", "random-1", "random-2"):
        assert f">{100 * results[part]['test_accuracy']:.2f} %</td>" in text


@pytest.mark.parametrize("recoveries", [0, 1, 2])
@pytest.mark.usefixtures("no_pictures")
def test_run_that_goes_on(
    train_run: Path, broken_off: Callable[..., Path], recoveries: int
) -> None:
    directory = broken_off(train_run, recoveries)
    text = report.page(RunRecord(directory))
    Page(text)
    assert "no part of the run is finished" in text
    assert f"isnas resume {directory}" in text
    assert ("Sparsity" in headings(text)) == (recoveries > 0)
    assert ("Training" in headings(text)) == (recoveries > 1)


@pytest.mark.usefixtures("no_pictures")
def test_hostile_texts_stay_texts(train_run: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(train_run, tmp_path / "<b>&run"))
    config = json.loads((directory / "config.json").read_text())
    evil = "<script>alert('1')</script>\"&"
    config["options"]["data"] = config["data"]["source"] = evil
    config["options"][evil] = config["versions"][evil] = evil
    (directory / "config.json").write_text(json.dumps(config))
    results = json.loads((directory / "results.json").read_text())
    results[evil] = {evil: 1}
    (directory / "results.json").write_text(json.dumps(results))
    page = Page(report.page(RunRecord(directory)))
    assert {tag for tag, _ in page.elements} & {"script", "b"} == set()


def test_commands_do_the_same_again(run: RunRecord) -> None:
    (command,) = report.commands_of(run)
    words = command.split()
    assert words[:8] == [
        "isnas", "search", "--space", "darts", "--method", run.method, "--seed", "0",
    ]  # fmt: skip
    assert words[-2:] == ["--out", f"{run.directory}-again"]
    given = dict(zip(words[8:-2:2], words[9:-2:2], strict=True))
    schema = METHODS[run.method].schema(DARTS_SPACE)
    changes = {
        name.removeprefix("--").replace("-", "_"): type(run.options[name[2:].replace("-", "_")])(v)
        for name, v in given.items()
    }
    assert schema.compose(**changes).to_json() == schema.from_json(run.options).to_json()


def test_commands_of_tuples_and_flags(train_run: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(train_run, tmp_path / "run"))
    config = json.loads((directory / "config.json").read_text())
    config["options"] |= {"m": [5, 6, 7, 8], "reencode": True}
    (directory / "config.json").write_text(json.dumps(config))
    (command,) = report.commands_of(RunRecord(directory))
    assert "--m 5,6,7,8" in command
    assert re.search(r"--reencode (--|$)", command)


def test_commands_of_evaluations(train_run: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(train_run, tmp_path / "run"))
    options = evaluation_schema(DARTS_SPACE).compose()
    config = {
        "command": "evaluate", "options": options.to_json(), "genotype": {},
        "space": DARTS_SPACE.to_json(),
    }  # fmt: skip
    for extra, expected in (
        ({}, f"isnas evaluate --genotype {directory}/genotype.json --seed 0"),
        # without --epochs a saved network would only be tested
        (
            {"network": "/a b.pt"},
            f"isnas evaluate --network '/a b.pt' --seed 0 --epochs {options.optimizer.epochs}",
        ),
    ):
        (directory / "config.json").write_text(json.dumps(config | extra))
        assert report.commands_of(RunRecord(directory))[0] == f"{expected} --out {directory}-again"


@pytest.mark.usefixtures("no_pictures")
def test_mistakes(tmp_path: Path, train_run: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        report.write_report(tmp_path, tmp_path / "x.html")
    with pytest.raises(UserError, match="cannot be written"):
        report.write_report(train_run, tmp_path / "missing" / "x.html")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_in_a_browser(search_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    # a line of our own that says what the browser has made of the page
    check = (
        "<script>onload = () => { const all = [...document.images]; document.title = 'pictures: '"
        " + all.filter(i => i.complete && i.naturalWidth > 100).length + ' of ' + all.length"
        " + ', too wide: ' + (document.documentElement.scrollWidth > innerWidth) }</script>"
    )
    path.write_text(report.page(RunRecord(search_run)).replace("</body>", f"{check}</body>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run "
        "--disable-component-update --disable-default-apps --disable-sync"
    )
    for width in (1000, 400):
        done = subprocess.run(
            [
                "chromium",
                *flags.split(),
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},900",
                "--virtual-time-budget=5000",
                "--dump-dom",
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "<title>pictures: 5 of 5, too wide: false</title>" in done.stdout
