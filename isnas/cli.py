"""The command `isnas`. It says what it does, and says one clear line about a mistake."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from . import __version__, spaces
from .commands import RunResult, evaluate, resume, sample, search, test_saved, train_further
from .commands.check_data import IRRELEVANT, check_data, check_schema
from .commands.evaluate import evaluation_job, further_job
from .commands.run import Job
from .commands.search import ONE_STAGE, TWO_STAGE, search_job
from .comparison.compare import compare, comparison_schema
from .comparison.seeds import repeat
from .runs.directory import LOCK, default_directory
from .runs.evaluation import evaluation_schema
from .runs.listing import list_runs, table_of
from .runs.loop import Interrupted
from .runs.saved import load_network, saved_data
from .runtime.errors import UserError, printable, suggestion
from .runtime.files import Folder, check_output
from .runtime.options import QUICK, OptionField, Schema
from .runtime.parsing import Parser
from .runtime.processes import is_first, joined, once, processes
from .runtime.progress import Progress
from .searches.registry import METHODS, method_named
from .spaces.base import Space
from .spaces.genotype import Genotype
from .tasks.registry import TASKS, task_of

COMMANDS = {
    "search": "Search an architecture by any method and train what was found.",
    "train": "Search and train in one run (one-stage), and fold: search --method ista-one-stage.",
    "evaluate": "Train a genotype, or test a saved network.",
    "compare": "Compare methods on one data set: same space, sizes and budget, one referee.",
    "draw": "Draw the cells of a genotype.",
    "report": "Make one HTML page of a run: results and figures.",
    "export": "Write a trained network for other programs: ONNX, torch.export, safetensors.",
    "predict": "Tell what is on images, by a trained network.",
    "list": "List runs: what each is, whether it is finished, its result and its age.",
    "check-data": "Read a folder of images and say what would be trained on, and what would stop it.",
    "resume": "Go on with a run that was broken off.",
    "sample": "Write text with a trained language model.",
}


DEFAULT_SPACE = "darts"


def _whole_numbers(text: str) -> int | tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


_whole_numbers.__name__ = "whole numbers"  # argparse's word for it


def _add_option(parser: argparse._ArgumentGroup, field: OptionField) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    shown = " ".join(field.default) if field.several and field.default else field.default
    default = "" if shown is None or shown == "" else f" (default {shown})"
    text = (field.help + default).replace("%", "%%")
    shared: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
    if field.type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
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


def _add_schema(parser: argparse.ArgumentParser, schema: Schema) -> None:
    """Add the options of a schema, part by part."""
    parser.add_argument(
        "--preset",
        choices=list(schema.presets),
        default=QUICK,
        help=f"values of all options that are not given (default {QUICK}, whose values are the "
        f"defaults named here)",
    )
    groups = {
        part: parser.add_argument_group(f"{part.replace('_', ' ')} options")
        for part in schema.parts
    }
    for field in schema.fields.values():
        _add_option(groups[field.part], field)


def _peeked(words: Sequence[str], flag: str) -> str | None:
    """Return the value that an option has among the words of the command line."""
    for i, word in enumerate(words):
        if word == flag:
            return words[i + 1] if i + 1 < len(words) else None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _space_named(words: Sequence[str]) -> str:
    """Return the name of the search space on the command line: by default the first one that is for the task."""
    name, task = _peeked(words, "--space"), _peeked(words, "--task")
    if task is None:
        return name or DEFAULT_SPACE
    if task not in TASKS:
        raise UserError(
            f"no task is called {task!r}{suggestion(task, TASKS)}; there are {', '.join(TASKS)}"
        )
    for_task = [each for each, space in spaces.SPACES.items() if space.task == task]
    if name is None:
        return for_task[0]
    if name in spaces.SPACES and name not in for_task:
        raise UserError(
            f"--space {name} is for the task {spaces.SPACES[name].task}, not for {task}: leave --task out, or choose "
            f"{', '.join(for_task)}"
        )
    return name


def _space_of(words: Sequence[str]) -> Space:
    """Return the search space that the command line names."""
    name = _space_named(words)
    parameters: dict[str, int] = {}
    for parameter in spaces.registry.space_class(name).parameters:
        value = _peeked(words, f"--{parameter.replace('_', '-')}")
        if value is not None and value.isdecimal():  # argparse says what is wrong with others
            parameters[parameter] = int(value)
    return spaces.get(name, **parameters)


def _add_genotype(
    parser: argparse.ArgumentParser, which: argparse._MutuallyExclusiveGroup, text: str
) -> None:
    """Add what names an architecture."""
    names = ", ".join(spaces.published())
    which.add_argument("--genotype", metavar="NAME|FILE|TEXT", help=f"{text}: {names}")
    parser.add_argument(
        "--space",
        choices=list(spaces.SPACES),
        help="the genotype's space (by default the first that has such a name or text)",
    )


def _genotype(name: str, space: str | None) -> Genotype:
    return Genotype.load(name, None if space is None else spaces.get(space))


def _add_space(parser: argparse.ArgumentParser, space: Space) -> None:
    parser.add_argument(
        "--space",
        choices=list(spaces.SPACES),
        default=space.name,
        help=f"the search space, which brings its task (default {DEFAULT_SPACE})",
    )
    parser.add_argument(
        "--task",
        choices=list(TASKS),
        default=argparse.SUPPRESS,
        help="the task, with its first search space where none is named",
    )
    for parameter in space.parameters:
        parser.add_argument(
            f"--{parameter.replace('_', '-')}",
            type=int,
            metavar="N",
            dest=f"space.{parameter}",
            default=getattr(space, parameter),
            help=f"{parameter} of the space (default {getattr(type(space)(), parameter)})",
        )


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """Return what the words of the command line mean: the options of a command depend on its space and method."""
    parser = Parser(
        prog="isnas", description="Neural architecture search by sparse coding (ISTA-NAS)."
    )
    parser.add_argument("--version", action="version", version=f"isnas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # no abbreviations: --epoch must not pass for --epochs in a script
    made = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in COMMANDS.items()
    }
    named = next((word for word in words if not word.startswith("-")), None)
    if named in made:
        _ADD[named](made[named], words)
    given, unknown = parser.parse_known_args(words)
    if unknown:  # the command's own parser knows what there is
        made[given.command].error(
            _elsewhere(given, unknown[0]) or f"unrecognized arguments: {' '.join(unknown)}"
        )
    return vars(given)


def _elsewhere(given: argparse.Namespace, word: str) -> str | None:
    """Return of which methods or spaces an option is that a command does not know; None where it is of none of them."""
    flag = word.partition("=")[0]
    space, method = getattr(given, "space", None), getattr(given, "method", None)
    if not flag.startswith("--") or space is None:
        return None
    named = {
        "method": [each for each in METHODS if method and _knows(given.command, space, each, flag)],
        "space": [each for each in spaces.SPACES if _knows(given.command, each, method, flag)],
    }
    for kind, having in named.items():
        if having:
            several = "s" if len(having) > 1 else ""
            return (
                f"{flag} is an option of the {kind}{several} {', '.join(having)}, "
                f"not of {getattr(given, kind)}"
            )
    return None


def _knows(command: str, space: str, method: str | None, flag: str) -> bool:
    """Return whether a command has an option for a space and a method."""
    parser = argparse.ArgumentParser(add_help=False)
    try:
        _ADD[command](parser, ["--space", space, *(["--method", method] if method else [])])
    except UserError:  # the method cannot serve the space
        return False
    return flag in parser._option_string_actions


def _add_out(parser: argparse.ArgumentParser, name: str, more: str = "") -> None:
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=f"directory to write to (default runs/<date>-{name}){more}",
    )
    parser.add_argument("--quiet", action="store_true", help="print the results only")


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="do it with N seeds, from --seed on, in DIR/seed-0, ...; the same command goes on",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="with --seeds: runs at a time (default 1)",
    )


def _add_search(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    space = _space_of(words)
    method = _peeked(words, "--method") or TWO_STAGE
    _add_space(parser, space)
    parser.add_argument(
        "--method",
        choices=list(METHODS),
        default=TWO_STAGE,
        help=f"the method (default {TWO_STAGE}); --help shows the options of the one that is named",
    )
    _add_out(parser, "search")
    _add_seeds(parser)
    if method in METHODS:
        _add_schema(parser, method_named(method, space).schema(space))


def _add_train(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    space = _space_of(words)
    _add_space(parser, space)
    _add_out(parser, "train")
    _add_seeds(parser)
    _add_schema(parser, method_named(ONE_STAGE, space).schema(space))


def _add_evaluate(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    _add_genotype(parser, which, "train this from scratch, then test it")
    which.add_argument(
        "--network",
        metavar="FILE|RUN",
        help="test this network.pt, or that of a run; with --epochs train it further first",
    )
    _add_out(parser, "evaluate")
    _add_seeds(parser)
    genotype, network = _peeked(words, "--genotype"), _peeked(words, "--network")
    space = _space_of(())
    if "--help" not in words and "-h" not in words:
        named = _peeked(words, "--space")
        if genotype is not None:
            # argparse says what is wrong with other names of spaces
            space = _genotype(genotype, named if named in spaces.SPACES else None).space
        elif network is not None:
            space = load_network(network).space
    _add_schema(parser, evaluation_schema(space))


def _add_compare(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    space = _space_of(words)
    _add_space(parser, space)
    _add_out(parser, "compare", "; one with rows of the same settings goes on")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="searches at a time, each with one thread (default 1)",
    )
    parser.add_argument(
        "--backend",
        choices=("loky", "dask", "ray"),
        default="loky",
        help="where they run: processes of this machine (loky, the default), or a cluster; one "
        "is started on this machine if no scheduler is named. Needs isnas[dask] or isnas[ray]",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="address of a Dask or Ray cluster")
    _add_schema(parser, comparison_schema(space))


def _add_draw(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    _add_genotype(parser, which, "draw this")
    which.add_argument("--network", metavar="FILE|RUN", help="a network.pt, or a run")
    parser.add_argument(
        "--out",
        metavar="DIR|FILE",
        default=".",
        help="a directory for cells.svg, or a file ending in .svg, .png or .pdf (default .)",
    )


def _add_report(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's directory")
    parser.add_argument("--out", metavar="FILE", help="the page (default RUN/report.html)")


def _add_list(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default="runs",
        help="directory to search (default runs)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _add_check_data(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("data", metavar="DIR", help="the data, such as a folder of images")
    space = _space_of(words)
    _add_space(parser, space)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    group = parser.add_argument_group("data options")
    for field in check_schema(space).fields.values():
        if field.name not in ("data", *IRRELEVANT):
            _add_option(group, field)


def _add_resume(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's directory")
    parser.add_argument("--device", help="continue on another device")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="train for more epochs than planned"
    )
    parser.add_argument("--quiet", action="store_true", help="print the results only")


def _add_sample(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's directory, or a network.pt")
    parser.add_argument(
        "--length", type=int, default=100, metavar="N", help="words or characters (default 100)"
    )
    parser.add_argument(
        "--start", default="", metavar="TEXT", help="beginning of the text (default: a new line)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="below 1 likely words become likelier; 0: always the most likely (default 1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")


def _add_predict(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    _add_network(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files; folders, whose images are taken at any depth; patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="classes to name for each image (default 1)"
    )
    parser.add_argument(
        "--format",
        choices=("lines", "csv", "json"),
        default="lines",
        help="a line, a row of a table, or an object of a JSON array for each image (default lines)",
    )
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images at a time (default 64)"
    )
    parser.add_argument("--quiet", action="store_true", help="print the results only")


def _add_export(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    _add_network(parser)
    parser.add_argument(
        "--format",
        choices=("onnx", "torch-export", "safetensors"),
        default="onnx",
        help="ONNX (the default); PyTorch's own .pt2, which needs no code; or the weights, with a "
        "module of plain PyTorch",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="default: beside the network, with the format's suffix"
    )
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        metavar="N|dynamic",
        help="images that it takes at a time; dynamic (the default): any number",
    )
    parser.add_argument(
        "--with-normalization",
        action="store_true",
        help="it takes pixels, uint8, and normalises them itself",
    )


def _batch_size(text: str) -> int | None:
    if text != "dynamic" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number or dynamic, got {text!r}")
    return None if text == "dynamic" else int(text)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "network", metavar="NETWORK", help="a run's directory, a network.pt or its network.json"
    )


_ADD = {
    "search": _add_search,
    "train": _add_train,
    "evaluate": _add_evaluate,
    "compare": _add_compare,
    "draw": _add_draw,
    "report": _add_report,
    "export": _add_export,
    "predict": _add_predict,
    "list": _add_list,
    "check-data": _add_check_data,
    "resume": _add_resume,
    "sample": _add_sample,
}


def _show(result: RunResult, out: TextIO) -> None:
    """Print the results of a run."""
    if not is_first():
        return
    results = result.results
    print(f"genotype: {result.genotype}", file=out)
    task = task_of(result.genotype.space)
    measure = task.measure
    name = f"test_{measure.name}"
    own = results.get("search") or {}
    main = results.get("found") or results.get("evaluate") or own
    if {"parameters", "multiply_adds"} <= set(main):
        print(
            f"parameters: {main['parameters']:,}; multiply-adds: {main['multiply_adds']:,}",
            file=out,
        )
    if {"folding_error", "search_epochs"} <= set(own):
        print(
            f"epochs of search: {own['search_epochs']}; largest relative difference "
            f"between super-net and folded network: {own['folding_error']:.1e}",
            file=out,
        )
    if name in own and main is not own:
        print(
            f"test {measure.name} of the search's own network: {task.describe_test(own)}", file=out
        )
    if name in main:
        line = f"test {measure.name}: {task.describe_test(main)}"
        others = [measure.scale * r[name] for n, r in results.items() if n.startswith("random-")]
        unit = f" {measure.unit}" if measure.unit else ""
        if len(others) == 1:
            line += f"; a random architecture trained the same way: {others[0]:.2f}{unit}"
        elif others:
            line += (
                f"; {len(others)} random architectures trained the same way: "
                f"{statistics.mean(others):.2f} +- {statistics.stdev(others):.2f}{unit} "
                f"({min(others):.2f} to {max(others):.2f})"
            )
        print(line, file=out)
    files = {path.name for path in result.directory.iterdir() if path.is_file()}
    names = sorted(files - {LOCK})
    print(f"written to {result.directory}: {', '.join(names)}", file=out)


def _space_given(arguments: dict[str, Any]) -> Space:
    """Take the search space out of the arguments."""
    parameters = {
        name.removeprefix("space."): arguments.pop(name)
        for name in list(arguments)
        if name.startswith("space.")
    }
    return spaces.get(arguments.pop("space"), **parameters)


def _run(arguments: dict[str, Any]) -> int:
    """Do what the arguments say and return the exit status."""
    command = arguments.pop("command")
    if command == "list":
        runs = list_runs(arguments["directory"])
        if arguments["json"]:
            print(json.dumps([run.to_json() for run in runs], indent=1))
        else:
            print("\n".join(table_of(runs)) if runs else f"no runs in {arguments['directory']}")
        return 0
    if command == "check-data":
        return _check_data(arguments)
    if command == "draw":
        from .drawing import draw_cells

        genotype = _genotype_of(arguments)
        out = Path(arguments["out"])
        if not out.suffix:
            out = out / "cells.svg"
        Folder(out.parent).make()
        draw_cells(genotype, out)
        print(f"written to {out}")
        return 0
    if command == "sample":
        print(sample(arguments.pop("run"), **arguments))
        return 0
    if command == "report":
        # the figures stand above the library, as this command does
        from figures.report import write_report

        out = arguments["out"]
        if out is not None:
            check_output(out)
        print(f"written to {write_report(arguments['run'], out)}")
        return 0
    if command == "export":
        _export(**arguments)
        return 0
    progress = Progress(arguments.pop("quiet"))
    if command == "predict":
        return _predict(progress, **arguments)
    if command == "resume":
        directory = arguments.pop("run")
        _show(resume(directory, progress=progress, **arguments), sys.stdout)
        return 0
    arguments |= {name: tuple(v) for name, v in arguments.items() if isinstance(v, list)}
    common = {"out": arguments.pop("out"), "preset": arguments.pop("preset"), "progress": progress}
    several = jobs = None
    if command != "compare":  # there these are options like others
        several, jobs = arguments.pop("seeds", None), arguments.pop("jobs", None)
    if jobs is not None and several is None:
        raise UserError("--jobs is for several seeds: give --seeds, too")
    if several is not None:
        return _repeat(_job_of(command, common.pop("preset"), arguments), several, jobs, common)
    if command == "evaluate":
        result = _evaluate(common, arguments)
    else:
        arguments.pop("task", None)
        space = _space_given(arguments)
        if command == "compare":
            _compare(space, common, arguments)
            return 0
        method = arguments.pop("method", ONE_STAGE)
        result = search(method, space, **common, **arguments)
    if result is not None:
        _show(result, sys.stdout)
    return 0


def _predict(progress: Progress, network: str, images: list[str], **options: Any) -> int:
    """Predict; return 1 where images could not be read."""
    from .commands.predict import predict

    _refuse_several("predict")

    def complain(problem: str) -> None:
        _complain(f"isnas: error: {problem}")

    failed = predict(
        network, images, sys.stdout.write, progress=progress, complain=complain, **options
    )
    return 1 if failed else 0


def _export(network: str, **options: Any) -> None:
    from .deployment.export import export_network

    _refuse_several("export")
    done = export_network(network, **options)
    print(f"written to {done.path} ({done.path.stat().st_size:,} bytes)")
    print(
        f"checked by {done.by} on {done.images} random images: largest difference from the "
        f"network {done.difference:.1e}, where scores go up to {done.largest:.3g}"
    )
    print(f"to use it without isnas: python {shlex.quote(str(done.loader))} IMAGES...")


def _refuse_several(command: str) -> None:
    if processes() > 1:
        raise UserError(f"{command} is not for torchrun: one process does it")


def _job_of(command: str, preset: str, arguments: dict[str, Any]) -> Job:
    """Return what a command is to do, for several seeds."""
    if command == "evaluate":
        name, network = arguments.pop("genotype"), arguments.pop("network")
        space = arguments.pop("space")
        if network is None:
            genotype = _genotype(name, space)
            options = evaluation_schema(genotype.space).compose(preset, **arguments)
            return evaluation_job(genotype, options)
        if space is not None:
            raise UserError("--space is a genotype's: a network knows its own")
        if "epochs" not in arguments:
            raise UserError("--seeds: a test has no seed; give --epochs to train further")
        _take_saved(network, arguments)
        return further_job(network, preset, arguments)
    arguments.pop("task", None)
    space = _space_given(arguments)
    method = arguments.pop("method", ONE_STAGE)
    schema = method_named(method, space).schema(space)
    return search_job(method, space, schema.compose(preset, **arguments))


def _repeat(job: Job, seeds: int, jobs: int | None, common: dict[str, Any]) -> int:
    """Do a job with several seeds and print what they come to; return the exit status: 1 when some failed."""
    out, progress = common["out"], common["progress"]
    result = repeat(job, seeds, out, jobs=1 if jobs is None else jobs, progress=progress)
    print(result.table)
    files = ["seeds.json", "table.md"]
    if result.summary["means"]:
        # the figures stand above the library, as this command does
        from figures.seeds import write_figure

        write_figure(result.directory, result.directory / "seeds.svg")
        files.append("seeds.svg")
    print(f"written to {result.directory}: {', '.join(files)}")
    return 1 if result.failed else 0


def _check_data(arguments: dict[str, Any]) -> int:
    progress = Progress(arguments.pop("quiet"))
    as_json = arguments.pop("json")
    space = _space_given(arguments)
    found = check_data(arguments.pop("data"), space, progress=progress, **arguments)
    print(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))
    return 1 if found.problems else 0


def _evaluate(common: dict[str, Any], arguments: dict[str, Any]) -> RunResult | None:
    genotype, network = arguments.pop("genotype"), arguments.pop("network")
    space = arguments.pop("space")
    if network is None:
        return evaluate(_genotype(genotype, space), **common, **arguments)
    if space is not None:
        raise UserError("--space is a genotype's: a network knows its own")
    _take_saved(network, arguments)
    if "epochs" in arguments:
        return train_further(network, **common, **arguments)
    if common["out"] is not None:
        raise UserError("--out: a test writes nothing; give --epochs to train further")
    _only_test(network, arguments, common["progress"])
    return None


def _take_saved(network: str, arguments: dict[str, Any]) -> None:
    """Complete arguments by what a saved network knows of its data."""
    task = task_of(load_network(network).space)
    for name, value in task.options_of_saved(saved_data(network), arguments).items():
        arguments.setdefault(name, value)


def _compare(space: Space, common: dict[str, Any], arguments: dict[str, Any]) -> None:
    if processes() > 1:
        raise UserError(
            "compare is not for torchrun: --jobs and --backend run its searches at once"
        )
    out = common.pop("out")
    directory = Path(out) if out is not None else default_directory("compare")
    try:
        result = compare(space, out=directory, **common, **arguments)
    except KeyboardInterrupt:
        raise Interrupted(directory) from None
    print(result.table)
    # the figures stand above the library, as this command does
    from figures.compare import write_figure

    picture = write_figure(directory)
    print(f"written to {directory}: about.json, {picture.name}, rows.jsonl, table.md")


def _only_test(network: str, given: dict[str, Any], progress: Progress) -> None:
    schema = evaluation_schema(load_network(network).space)
    used = {name for name, field in schema.fields.items() if field.part == "data"}
    used |= {"device", "batch_size", "seed"}
    if unused := set(given) - used:
        flag = f"--{min(unused).replace('_', '-')}"
        raise UserError(f"{flag} is for training: give --epochs, too, to train {network} further")
    tested = test_saved(network, progress, **given)
    if not is_first():
        return
    task = task_of(load_network(network).space)
    measure = task.measure
    print(f"parameters: {tested['parameters']:,}; multiply-adds: {tested['multiply_adds']:,}")
    value = task.describe_test(tested)
    print(f"test {measure.name}: {value} of {tested[task.unit]} {task.unit}")


def _genotype_of(arguments: dict[str, Any]) -> Genotype:
    if arguments["genotype"] is not None:
        return _genotype(arguments["genotype"], arguments["space"])
    if arguments["space"] is not None:
        raise UserError("--space is a genotype's: a network knows its own")
    return Genotype.of(load_network(arguments["network"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: done; 1: what was checked is not fine, or some of several images could not be read; 2: a user's mistake; 130:
    interrupted.
    """
    try:
        with joined():
            return _main(arguments)
    except UserError as error:  # the other processes cannot be reached
        _complain(f"isnas: error: {error}")
        return 2


def _main(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    comparing = words[:1] == ["compare"]
    several = comparing or any(word.partition("=")[0] == "--seeds" for word in words)
    warnings.showwarning = show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        given = _parsed(words)
        if comparing:
            given["words"] = words
        return _run(given)
    except UserError as error:
        _complain(f"isnas: error: {error}")
        return 2
    except Interrupted as stopped:
        directory = shlex.quote(str(stopped.directory))
        how = f"go on with: isnas resume {directory}"
        if several:
            how = f"the same command goes on with --out {directory}"
        if processes() > 1:
            how += f", by torchrun with {processes()} processes again"
        _complain(f"interrupted; {how}")
        return 130
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except OSError as error:  # mostly: standard output is full or closed
        what = "cannot write the results" if error.filename is None else str(error.filename)
        _complain(f"isnas: error: {printable(f'{what}: {error.strerror or error}', 300)}")
        return 2


def _complain(text: str) -> None:
    """Print a line about what went wrong; one that all processes would print is printed once."""
    if once(text):
        print(text, file=sys.stderr)


_OWN = ("isnas", "solvers", "figures", "experiments")
"""Packages whose warnings are isnas's."""


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning in one line, as `warnings.showwarning`, and whose it is."""
    origin = _library_of(filename)
    if origin in _OWN:
        _complain(f"isnas: warning: {printable(str(message), 2000)}")
    elif not issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        # what a library deprecates is for those who call it, not for those who run a command
        _complain(f"{origin}: warning: {printable(str(message), 300)}")


def _library_of(filename: str) -> str:
    """Return the installed package that a file belongs to; isnas where it is none, such as Python's own."""
    parts = Path(filename).parts
    for place in ("site-packages", "dist-packages"):
        if place in parts[:-1]:
            return parts[parts.index(place) + 1].removesuffix(".py")
    return "isnas"
