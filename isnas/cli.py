"""The command `isnas`. It says what it does, and says one clear line about a mistake."""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from . import __version__
from .commands import (
    RunResult,
    evaluate,
    load_network,
    resume,
    saved_data,
    search,
    test_saved,
    train,
    train_further,
)
from .comparison.compare import CompareOptions, compare
from .drawing import draw_cells
from .networks.folding import genotype_of
from .runs.directory import LOCK, default_directory
from .runs.loop import Interrupted
from .runs.options import (
    BaseOptions,
    EvaluateOptions,
    OptionField,
    SearchOptions,
    TrainOptions,
    option_fields,
)
from .runtime.errors import UserError
from .runtime.processes import is_first, joined, once, processes
from .runtime.progress import Progress
from .spaces.genotype import GENOTYPES, Genotype

_NAMES = ", ".join(GENOTYPES)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        text = f"{self.prog}: error: {message} (see {self.prog} --help)\n"
        self.exit(2, text if once(text) else None)


def _whole_numbers(text: str) -> int | tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


_whole_numbers.__name__ = "whole numbers"  # argparse's word for it


def _add_option(parser: argparse.ArgumentParser, field: OptionField) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    shown = " ".join(field.default) if field.several else field.default
    default = "" if shown is None or shown == "" else f" (default {shown})"
    text = (field.help + default).replace("%", "%%")
    shared: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
    if field.type is bool:
        parser.add_argument(flag, action="store_true", **shared)
    elif field.several:
        # also when the option is repeated
        parser.add_argument(flag, action="extend", nargs="+", metavar="TEXT", **shared)
    elif field.choices:
        parser.add_argument(flag, choices=field.choices, **shared)
    elif field.type is tuple:
        parser.add_argument(flag, type=_whole_numbers, metavar="N[,N...]", **shared)
    else:
        metavar = {int: "N", float: "X", str: "TEXT"}[field.type]
        parser.add_argument(flag, type=field.type, metavar=metavar, **shared)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="isnas", description="Neural architecture search by sparse coding (ISTA-NAS)."
    )
    parser.add_argument("--version", action="version", version=f"isnas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, options: type[BaseOptions] | None) -> _Parser:
        # no abbreviations: --epoch must not pass for --epochs in a script
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if options is not None:
            made.add_argument(
                "--preset",
                choices=list(options.presets),
                default="quick",
                help="values of all options that are not given (default quick); the defaults "
                "named here are those of quick",
            )
            for field in option_fields(options):
                _add_option(made, field)
            made.add_argument(
                "--out",
                metavar="DIR",
                help=f"directory to write to (default runs/<date>-{name})"
                + ("; one with rows of the same settings goes on" if name == "compare" else ""),
            )
        if name not in ("draw", "report"):
            made.add_argument("--quiet", action="store_true", help="print the results only")
        return made

    command("search", "Search an architecture (two-stage) and train what was found.", SearchOptions)
    command("train", "Search and train in one run (one-stage), and fold.", TrainOptions)
    made = command("evaluate", "Train a genotype, or test a saved network.", EvaluateOptions)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--genotype", metavar="NAME|FILE", help=f"train this from scratch, then test it: {_NAMES}"
    )
    which.add_argument(
        "--network",
        metavar="FILE",
        help="test this network.pt; with --epochs train it further first",
    )
    made = command(
        "compare",
        "Compare methods on one data set: same space, sizes and budget, one referee.",
        CompareOptions,
    )
    made.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="searches at a time, each with one thread (default 1)",
    )
    made.add_argument(
        "--backend",
        choices=("loky", "dask", "ray"),
        default="loky",
        help="where they run: processes of this machine (loky, the default), or a cluster; one "
        "is started on this machine if no scheduler is named. Needs isnas[dask] or isnas[ray]",
    )
    made.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask or Ray cluster")
    made = command("draw", "Draw the cells of a genotype.", None)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--genotype", metavar="NAME|FILE", help=f"{_NAMES}, or a file")
    which.add_argument("--network", metavar="FILE", help="a network.pt")
    made.add_argument(
        "--out",
        metavar="DIR|FILE",
        default=".",
        help="a directory for cells.svg, or a file ending in .svg, .png or .pdf (default .)",
    )
    made = command("report", "Make one HTML page of a run: results and figures.", None)
    made.add_argument("run", metavar="RUN", help="the run's directory")
    made.add_argument("--out", metavar="FILE", help="the page (default RUN/report.html)")
    made = command("resume", "Go on with a run that was broken off.", None)
    made.add_argument("run", metavar="RUN", help="the run's directory")
    made.add_argument("--device", help="go on on another device")
    made.add_argument("--epochs", type=int, metavar="N", help="train for more epochs than planned")
    return parser


def _show(result: RunResult, out: TextIO) -> None:
    """Print what a run came to."""
    if not is_first():
        return
    results = result.results
    main = results.get("found") or results.get("train") or results.get("evaluate") or {}
    print(f"genotype: {result.genotype}", file=out)
    if "parameters" in main:
        print(
            f"parameters: {main['parameters']:,}; multiply-adds: {main['multiply_adds']:,}",
            file=out,
        )
    if "folding_error" in main:
        print(
            f"epochs of search: {main['search_epochs']}; largest relative difference "
            f"between super-net and folded network: {main['folding_error']:.1e}",
            file=out,
        )
    if "test_accuracy" in main:
        line = f"test accuracy: {100 * main['test_accuracy']:.2f} %"
        others = [100 * r["test_accuracy"] for n, r in results.items() if n.startswith("random-")]
        if len(others) == 1:
            line += f"; a random architecture trained the same way: {others[0]:.2f} %"
        elif others:
            line += (
                f"; {len(others)} random architectures trained the same way: "
                f"{statistics.mean(others):.2f} +- {statistics.stdev(others):.2f} % "
                f"({min(others):.2f} to {max(others):.2f})"
            )
        print(line, file=out)
    files = {path.name for path in result.directory.iterdir() if path.is_file()}
    names = sorted(files - {LOCK})
    print(f"written to {result.directory}: {', '.join(names)}", file=out)


def _run(arguments: dict[str, Any]) -> None:
    command = arguments.pop("command")
    if command == "draw":
        genotype = _genotype_of(arguments)
        out = Path(arguments["out"])
        if not out.suffix:
            out = out / "cells.svg"
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out.parent} cannot be written: {error.strerror}") from None
        draw_cells(genotype, out)
        print(f"written to {out}")
        return
    if command == "report":
        # the figures stand above the library, as this command does
        from figures.report import write_report

        run = Path(arguments["run"])
        out = Path(arguments["out"] or run / "report.html")
        write_report(run, out)
        print(f"written to {out}")
        return
    progress = Progress(arguments.pop("quiet"))
    if command == "resume":
        directory = arguments.pop("run")
        _show(resume(directory, progress=progress, **arguments), sys.stdout)
        return
    out, preset = arguments.pop("out"), arguments.pop("preset")
    if command == "compare":
        _compare(preset, out, progress, arguments)
        return
    if command == "search":
        result = search(SearchOptions.preset(preset, **arguments), out, progress)
    elif command == "train":
        result = train(TrainOptions.preset(preset, **arguments), out, progress)
    else:
        genotype, network = arguments.pop("genotype"), arguments.pop("network")
        if network is None:
            options = EvaluateOptions.preset(preset, **arguments)
            result = evaluate(Genotype.load(genotype), options, out, progress)
        else:
            saved = saved_data(network)
            if "data" not in arguments and saved.get("source"):
                arguments["data"] = saved["source"]
                if Path(saved["source"]).is_dir():  # named data sets have their own size
                    arguments.setdefault("image_size", saved["size"][0])
            if "crop" in saved:
                arguments.setdefault("crop", saved["crop"])
            own = {"channels", "cells", "stem"} & set(arguments)
            if own:
                raise UserError(f"--{min(own)} is the network's own: leave it out")
            options = EvaluateOptions.preset(preset, **arguments)
            if "epochs" not in arguments:
                if out is not None:
                    raise UserError("--out: a test writes nothing; give --epochs to train further")
                _only_test(network, options, set(arguments), progress)
                return
            result = train_further(network, options, out, progress)
    _show(result, sys.stdout)


def _compare(preset: str, out: str | None, progress: Progress, arguments: dict[str, Any]) -> None:
    if processes() > 1:
        raise UserError(
            "compare is not for torchrun: --jobs and --backend run its searches at once"
        )
    how = {name: arguments.pop(name) for name in ("jobs", "backend", "scheduler", "words")}
    several = {name: tuple(v) for name, v in arguments.items() if isinstance(v, list)}
    options = CompareOptions.preset(preset, **{**arguments, **several})
    directory = Path(out) if out is not None else default_directory("compare")
    try:
        result = compare(options, directory, progress=progress, **how)
    except KeyboardInterrupt:
        raise Interrupted(directory) from None
    print(result.table)
    # the figures stand above the library, as this command does
    from figures.compare import write_figure

    picture = directory / "compare.svg"
    write_figure(directory, picture)
    print(f"written to {directory}: about.json, {picture.name}, rows.jsonl, table.md")


def _only_test(network: str, options: EvaluateOptions, given: set[str], progress: Progress) -> None:
    used = {"data", "data_root", "download", "image_size", "crop", "corrupt"}
    used |= {"device", "batch_size", "seed"}
    if given - used:
        flag = f"--{min(given - used).replace('_', '-')}"
        raise UserError(f"{flag} is for training: give --epochs, too, to train {network} further")
    tested = test_saved(network, options, progress)
    if not is_first():
        return
    print(f"parameters: {tested['parameters']:,}; multiply-adds: {tested['multiply_adds']:,}")
    print(f"test accuracy: {100 * tested['test_accuracy']:.2f} % of {tested['images']} images")


def _genotype_of(arguments: dict[str, Any]) -> Genotype:
    if arguments["genotype"] is not None:
        return Genotype.load(arguments["genotype"])
    return genotype_of(load_network(arguments["network"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 2 after a user's mistake, 130 when interrupted."""
    try:
        with joined():
            return _main(arguments)
    except UserError as error:  # the other processes cannot be reached
        _complain(f"isnas: error: {error}")
        return 2


def _main(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = vars(_parser().parse_args(words))
    warnings.showwarning = _show_warning
    comparing = given["command"] == "compare"
    if comparing:
        given["words"] = words
    try:
        _run(given)
    except UserError as error:
        _complain(f"isnas: error: {error}")
        return 2
    except Interrupted as stopped:
        directory = shlex.quote(str(stopped.directory))
        how = f"go on with: isnas resume {directory}"
        if comparing:
            how = f"the same command goes on with --out {directory}"
        if processes() > 1:
            how += f", by torchrun with {processes()} processes again"
        _complain(f"interrupted; {how}")
        return 130
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except OSError as error:  # standard output is full or closed
        _complain(f"isnas: error: cannot write the results: {error.strerror}")
        return 2
    return 0


def _complain(text: str) -> None:
    """Print a line about what went wrong; one that all processes would print is printed once."""
    if once(text):
        print(text, file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _complain(f"isnas: warning: {message}")
