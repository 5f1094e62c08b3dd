"""What the experiments share: the command's arguments, one line about a mistake, going on, the record of settings."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

from isnas.engine import Interrupted
from isnas.errors import UserError
from isnas.options import RunOptions
from isnas.progress import Progress
from isnas.rows import Rows, launch_record
from isnas.trials import TABLE

from ._images import Subset, prepare_images

# what a trial sets, or where things are
_INCIDENTAL = ("seed", "seeds", "device", "data", "data_root", "download")


def positive(text: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


class Parser(argparse.ArgumentParser):
    """The parser of an experiment's command, with the arguments that all have; says what is wrong in one line.

    Parameters
    ----------
    name : str
        The experiment's module.
    text : str
        Its question.
    scales : collection of str
    """

    def __init__(self, name: str, text: str, scales: Collection[str]) -> None:
        super().__init__(prog=f"python -m experiments.{name}", description=text, allow_abbrev=False)
        self.add_argument("--scale", choices=list(scales), required=True)
        self.add_argument("--data", metavar="NAME", help="digits, cifar10 or a folder of images")
        self.add_argument(
            "--data-root", metavar="DIR", default="data", help="where cifar10 is (default data)"
        )
        self.add_argument("--seeds", metavar="N", type=positive, help="seeds of each trial")
        self.add_argument(
            "--jobs", metavar="N", type=positive, default=1, help="trials at a time (default 1)"
        )
        self.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
        out = f"runs/{name}"
        self.add_argument(
            "--out", metavar="DIR", default=out, help=f"for the results (default {out})"
        )

    def error(self, message: str) -> NoReturn:
        """Leave with exit status 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run_command(
    parser: Parser, run: Callable[..., None], arguments: Sequence[str] | None = None
) -> int:
    """Run an experiment as its command line says, and print its table.

    Parameters
    ----------
    parser : Parser
    run : callable
        Gets the parsed arguments by name, ``out`` as a path, and besides ``arguments``, the words of the command line,
        and ``progress``.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit status: 0, 2 after a user's mistake, 130 when interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    given: dict[str, Any] = vars(parser.parse_args(words))
    out = given["out"] = Path(given["out"])
    try:
        run(**given, arguments=words, progress=Progress())
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print(f"interrupted; the same command goes on in {out}", file=sys.stderr)
        return 130
    print((out / TABLE).read_text())
    return 0


class Scale(Protocol):
    """The size of an experiment: a frozen dataclass with these fields and its own."""

    images: Subset
    seeds: int


@contextmanager
def opened(
    name: str,
    key: tuple[str, ...],
    out: Path,
    *,
    scale: str,
    size: Scale,
    data: str | None,
    data_root: str,
    arguments: Sequence[str],
    **settings: Any,
) -> Iterator[tuple[Rows, str]]:
    """Open an experiment's directory.

    Parameters
    ----------
    name : str
        The experiment's module.
    key : tuple of str
        What tells its trials apart.
    out : Path
    scale : str
    size : Scale
        The scale of this name.
    data : str or None
        ``--data``; None: the scale's.
    data_root : str
    arguments : sequence of str
        The words of the command line.
    **settings
        What else all rows have in common, as plain data.

    Yields
    ------
    rows : Rows
    images : str
        What the trials' runs are to use as their ``data``.
    """
    data = data or size.images.data
    common = {"scale": scale, "data": Path(data).name, **settings_of(size), **settings}
    with Rows(out, key, common, launch_record(f"experiments.{name}", arguments)) as rows:
        yield rows, prepare_images(out, size.images, data, data_root)


def settings_of(size: Scale) -> dict[str, Any]:
    """Return a scale as plain data; the fields of what is in it as ``field.name``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(size):
        value = getattr(size, field.name)
        if dataclasses.is_dataclass(value):
            inner = dataclasses.asdict(value)
            left_out = _INCIDENTAL if isinstance(value, RunOptions) else ("data",)
            found |= {f"{field.name}.{k}": v for k, v in inner.items() if k not in left_out}
        elif field.name not in _INCIDENTAL:
            found[field.name] = value
    return found


def origin(about: dict[str, Any]) -> str:
    """Return a line that says what made a directory's rows: command, machine, version."""
    last = about["launches"][-1]
    machine = last["machine"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return (
        f"`{last['command']}`, {machine['processor']}, {machine['cores']} cores{gpu}; "
        f"torch {last['versions']['torch']}.\n"
    )
