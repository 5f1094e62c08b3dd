"""One self-contained page about a run: pictures inside, nothing is fetched.

python -m figures.report RUN -o report.html
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError
from isnas.runtime.files import check_output, write_atomically
from isnas.runtime.options import Schema
from isnas.searches.registry import method_named
from isnas.tasks.base import Measure

from . import cells, compare, exhibits, freezing, sparsity, training
from ._command import Parser
from ._page import document, picture, table

REPORT = "report.html"


def write_report(run: RunRecord | str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run as one HTML page, and return where it is.

    Parameters
    ----------
    run : RunRecord or path
        A run, or its directory; it may still be going on.
    path : path, optional
        Where to write to; by default report.html in the run directory.

    Raises
    ------
    UserError
        When there is no such run, its records are damaged, or the page cannot be written.
    """
    record = run if isinstance(run, RunRecord) else RunRecord(run)
    content = page(record)
    if path is not None:
        write_atomically(path, content)
        return Path(path)
    record.folder.write(REPORT, content)
    return record.directory / REPORT


def page(run: RunRecord) -> str:
    """Return the report of a run as HTML."""
    title = f"isnas {run.command}: {run.directory.resolve().name}"
    data = run.config.get("data") or {}
    about = [
        f"{run.method} in the space {run.space.name}",
        f"on {data.get('name', run.options.get('data'))}",
    ]
    about += [f"seed {run.options.get('seed')}", run.status]
    if "started" in run.config:
        about.append(f"started {run.config['started']}")
    sections = [
        ("Architecture", _architecture(run)),
        ("Results", _results(run)),
        *_examinations(run),
        *(_picture(run, *each) for each in _PICTURES),
        ("Configuration", _configuration(run)),
        ("To do it again", _commands(run)),
    ]
    return document(title, ", ".join(about), sections)


def commands_of(run: RunRecord) -> list[str]:
    """Return the commands that do a run again and that go on with it.

    Options are given where they differ from the command's defaults.
    """
    words = ["isnas", run.command]
    if run.command == "search":
        words += ["--space", run.space.name, "--method", run.method]
        for name in run.space.parameters:
            words += [f"--{name.replace('_', '-')}", str(getattr(run.space, name))]
    if "network" in run.config:
        words += ["--network", str(run.config["network"])]
    elif run.command == "evaluate":
        words += ["--genotype", str(run.directory / "genotype.json")]
    words += ["--seed", str(run.options.get("seed", 0))]
    for field in _schema_of(run).fields.values():
        value = run.options.get(field.name, field.default)
        if "network" in run.config and field.part == "network":  # its own
            continue
        same = tuple(value) == field.default if isinstance(value, list) else value == field.default
        # without --epochs a saved network is only tested
        needed = field.name == "epochs" and "network" in run.config
        if (same and not needed) or value is None or field.name == "seed":
            continue
        off = field.type is bool and not value
        words.append(f"--{'no-' if off else ''}{field.name.replace('_', '-')}")
        if isinstance(value, (list, tuple)):
            words.append(",".join(map(str, value)))
        elif field.type is not bool:
            words.append(str(value))
    commands = [shlex.join([*words, "--out", f"{run.directory}-again"])]
    if run.status != "finished":
        commands.append(shlex.join(["isnas", "resume", str(run.directory)]))
    return commands


def _schema_of(run: RunRecord) -> Schema:
    if run.command == "search":
        return method_named(run.method, run.space).schema(run.space)
    return evaluation_schema(run.space)


def _architecture(run: RunRecord) -> str:
    if run.genotype is None:
        return "<p>None yet: nothing has been recovered.</p>"
    known = cells.coefficients_of(run) is not None
    caption = "The architecture."
    if known:
        caption += " A line is as wide as its coefficient is large; negative ones are dashed."
        if run.space.drawing == "layers":
            caption += " A skip's coefficient is the size of its dot; negative ones are hollow."
    drawn = picture(cells.make_figure(run, width=7.0), "Diagrams of the cells", caption)
    return f"{drawn}\n<pre>{escape(str(run.genotype))}</pre>"


def _results(run: RunRecord) -> str:
    """Return the numbers of all parts as a table."""
    numbers = {
        part: {k: v for k, v in result.items() if isinstance(v, (int, float))}
        for part, result in run.results.items()
    }
    numbers = {part: values for part, values in numbers.items() if values}
    if not numbers:
        return "<p>None yet: no part of the run is finished.</p>"
    names = list(dict.fromkeys(name for values in numbers.values() for name in values))
    rows = [["", *numbers]]
    for name in names:
        shown = [_number(name, values.get(name), run.measure) for values in numbers.values()]
        rows.append([name.replace("_", " "), *shown])
    hours = sum(float(s) for part in run.parts for s in run.seconds(part) if s == s) / 3600
    spent = f"{hours:.2f} hours" if hours >= 0.1 else f"{3600 * hours:.0f} seconds"
    return f"{table(rows, header=True, numbers=True)}\n<p>Time of all epochs: {spent}.</p>"


def _examinations(run: RunRecord) -> list[tuple[str, str]]:
    """Return sections with what tests have shown beside their measures, one for each network tested."""
    several = len(run.exhibits) > 1
    return [
        (
            f"Test of {part}" if several else "Test",
            "\n".join(exhibits.section(each) for each in shown),
        )
        for part, shown in run.exhibits.items()
    ]


def _number(name: str, value: float | None, measure: Measure) -> str:
    if value is None:
        return ""
    if name == f"test_{measure.name}":
        return measure.show(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _configuration(run: RunRecord) -> str:
    options = [[name, _plain(value)] for name, value in run.options.items()]
    parts = [f'<div class="columns">{table(options)}</div>']
    data = run.config.get("data") or {}
    facts = {f"data: {k}": v for k, v in data.items() if k in ("train", "test", "size")}
    facts |= {f"version: {k}": v for k, v in (run.config.get("versions") or {}).items()}
    facts |= {
        f"changed on resuming: {k}": v for c in run.config.get("changes", []) for k, v in c.items()
    }
    if facts:
        parts.append(table([[name, _plain(value)] for name, value in facts.items()]))
    return "\n".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _commands(run: RunRecord) -> str:
    return f"<pre>{escape(chr(10).join(commands_of(run)))}</pre>"


_PICTURES: tuple[tuple[str, Callable[[RunRecord], Figure], str], ...] = (
    (
        "Training",
        lambda run: training.make_figure({run.method: [run]}),
        "Losses and the measure after every epoch.",
    ),
    (
        "Comparison",
        lambda run: compare.make_figure({run.method: [run]}),
        "Tests of what was found and of random architectures trained alike.",
    ),
    (
        "Freezing",
        freezing.make_figure,
        "How far each node's z moved between two recoveries. A circle: the node had settled, and was frozen. A cross: "
        "the search ended, and cut it off as it was.",
    ),
    (
        "Sparsity",
        sparsity.make_figure,
        "z of every node over the recoveries, each candidate a row; the active places are framed. Beneath: non-zeros "
        "of z, the share of its l1 norm in the active places, and how many of these are new.",
    ),
)


def _picture(
    run: RunRecord, title: str, draw: Callable[[RunRecord], Figure], caption: str
) -> tuple[str, str]:
    """Return a section with a figure; an empty one where the run has nothing to draw."""
    tested = sum(f"test_{run.measure.name}" in result for result in run.results.values())
    there = {
        "Training": any(len(run.epochs(part)) for part in run.parts),
        "Comparison": tested > 1,
        # else no node is ever frozen
        "Freezing": bool(run.trajectories) and "freeze_threshold" in run.options,
        "Sparsity": bool(run.trajectories),
    }
    if not there[title]:
        return title, ""
    return title, picture(draw(run), title, caption)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("report", "A page about a run.", (".html",))
    parser.add_argument("run", metavar="RUN", help="a run's directory")
    given = parser.parse_args(arguments)
    try:
        check_output(given.out)
        write_report(given.run, given.out)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
