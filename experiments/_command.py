"""Common parts of the experiments: command and launch, one line about a mistake, going on, the record of settings."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from isnas.comparison.rows import Rows, launch_record
from isnas.comparison.trials import TABLE, Row, run_trials
from isnas.runs.loop import Interrupted
from isnas.runtime import parsing
from isnas.runtime.errors import UserError
from isnas.runtime.options import Composition
from isnas.runtime.progress import Progress

from ._images import Subset

# what a trial sets, or where things are
_INCIDENTAL = ("seed", "seeds", "device", "data", "data_root", "download")


def positive(text: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def among(names: Sequence[str], known: Collection[str], what: str) -> tuple[str, ...]:
    """Return those of `known` that are in `names`, in its order.

    Raises
    ------
    UserError
        When `names`, which are called `what`, has another.
    """
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"{what} must be of {', '.join(known)}, got {', '.join(unknown)}")
    return tuple(name for name in known if name in names)


class Parser(parsing.Parser):
    """The parser of an experiment's command, with the arguments that all have; says what is wrong in one line.

    Parameters
    ----------
    name : str
        The experiment's module, its ``__name__``.
    text : str
        Its question.
    scales : collection of str
    data : str
        The values that its data can have, in words.
    images : bool
        Whether they are images.
    """

    def __init__(
        self,
        name: str,
        text: str,
        scales: Collection[str],
        data: str = "digits, cifar10 or a folder of images",
        images: bool = True,
    ) -> None:
        super().__init__(prog=f"python -m {name}", description=text, allow_abbrev=False)
        self.add_argument("--scale", choices=list(scales), required=True)
        self.add_argument("--data", metavar="NAME", help=data)
        if images:
            self.add_argument(
                "--data-root", metavar="DIR", default="data", help="where cifar10 is (default data)"
            )
        self.add_argument("--seeds", metavar="N", type=positive, help="seeds of each trial")
        self.add_argument(
            "--jobs", metavar="N", type=positive, default=1, help="trials at a time (default 1)"
        )
        self.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
        out = f"runs/{name.rpartition('.')[2]}"
        self.add_argument(
            "--out", metavar="DIR", type=Path, default=out, help=f"for the results (default {out})"
        )


class Source(Protocol):
    """The data that an experiment uses: a frozen dataclass with this field and its own."""

    data: str
    """The default of ``--data``."""

    def prepare(self, out: Path, data: str, root: str) -> str:
        """Return what a run is to use as its ``data``; it may be written to a folder in `out`."""


class Size(Protocol):
    """The size of an experiment: a frozen dataclass with this field and its own."""

    seeds: int
    """The default of ``--seeds``."""


@dataclass(frozen=True)
class Scale:
    """The size of an experiment whose trials are runs with the same options.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``.
    options : Composition
        Options of the command that the trials run.
    """

    images: Subset
    seeds: int
    options: Composition


@dataclass(frozen=True)
class Launch:
    """The way an experiment is launched: the arguments that all experiments have.

    Parameters
    ----------
    scale : str
    out : Path
        Directory for the results.
    data : str, optional
        By default the scale's.
    data_root : str
    seeds : int, optional
        By default the scale's.
    jobs : int
        Trials at a time.
    device : str
    arguments : sequence of str
        The words of the command line, for the record.
    progress : Progress, optional
    """

    scale: str
    out: Path
    data: str | None = None
    data_root: str = "data"
    seeds: int | None = None
    jobs: int = 1
    device: str = "auto"
    arguments: Sequence[str] = ()
    progress: Progress | None = None

    @contextmanager
    def opened(
        self, name: str, key: tuple[str, ...], size: Size, source: Source | None = None
    ) -> Iterator[Experiment]:
        """Open the directory of an experiment, and prepare its data there.

        Parameters
        ----------
        name : str
            The experiment's module, its ``__name__``.
        key : tuple of str
            The names that tell its trials apart.
        size : Size
            That of the scale.
        source : Source, optional
            By default the scale's images.
        """
        source = size.images if source is None else source
        data = self.data or source.data
        settings = {"scale": self.scale, "data": Path(data).name, **settings_of(size)}
        record = launch_record(name, self.arguments)
        with Rows(self.out, key, settings, record, defaults_of(size)) as rows:
            place = source.prepare(self.out, data, self.data_root)
            yield Experiment(self, rows, place, range(self.seeds or size.seeds))


@dataclass(frozen=True)
class Experiment:
    """An experiment while its directory is open.

    Parameters
    ----------
    launch : Launch
    rows : Rows
    images : str
        The ``data`` of its runs.
    seeds : range
    """

    launch: Launch
    rows: Rows
    images: str
    seeds: range

    @property
    def runs(self) -> Path:
        """The directory of the runs."""
        return self.launch.out / "runs"

    def options(self, base: Composition, seed: int, **changes: Any) -> Composition:
        """Return the options of a run: these, with the seed, the experiment's images and device, and changes."""
        launch = self.launch
        place = {"data": self.images, "device": launch.device}
        if "data_root" in base.schema.fields:
            place["data_root"] = launch.data_root
        return base.replace(**place, seed=seed, **changes)

    def run(
        self,
        function: Callable[..., Row],
        trials: Sequence[tuple[Any, ...]],
        *,
        table: Callable[[Sequence[Row], dict[str, Any]], str],
        describe: Callable[[Row], str],
        jobs: int | None = None,
    ) -> None:
        """Run the trials that have no row yet, as many at a time as the launch says.

        See `isnas.comparison.trials.run_trials`.

        Parameters
        ----------
        function, trials, table, describe
            As there.
        jobs : int, optional
            Trials at a time, where it is not for the launch to say.
        """
        run_trials(
            self.rows,
            function,
            trials,
            table=table,
            describe=describe,
            jobs=jobs or self.launch.jobs,
            progress=self.launch.progress,
        )


def run_command(
    parser: Parser, run: Callable[..., None], arguments: Sequence[str] | None = None
) -> int:
    """Run an experiment as its command line says, and print its table.

    Parameters
    ----------
    parser : Parser
    run : callable
        Gets the launch and, by name, the parsed arguments that only this experiment has.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit status: 0, 2 after a user's mistake, 130 when interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    own = vars(parser.parse_args(words))
    names = [field.name for field in dataclasses.fields(Launch)]
    common = {name: own.pop(name) for name in names if name in own}
    launch = Launch(**common, arguments=words, progress=Progress())
    try:
        run(launch, **own)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print(f"interrupted; the same command goes on in {launch.out}", file=sys.stderr)
        return 130
    print((launch.out / TABLE).read_text())
    return 0


def run_module(name: str) -> NoReturn:
    """Run `main` of an experiment's module where it has its own name, and leave with what it returns.

    Processes of joblib are sent functions by name, and can import that module but not "__main__".
    """
    raise SystemExit(importlib.import_module(name).main())


def settings_of(size: Size) -> dict[str, Any]:
    """Return a scale as plain data; the fields of what is in it as ``field.name``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(size):
        value = getattr(size, field.name)
        if isinstance(value, Composition):
            inner = value.to_json()
            found |= {f"{field.name}.{k}": v for k, v in inner.items() if k not in _INCIDENTAL}
        elif dataclasses.is_dataclass(value):
            inner = dataclasses.asdict(value)
            found |= {f"{field.name}.{k}": v for k, v in inner.items() if k != "data"}
        elif field.name not in _INCIDENTAL:
            found[field.name] = value
    return found


def defaults_of(size: Size) -> dict[str, Any]:
    """Return the defaults of the options in a scale, named as in `settings_of`."""
    return {
        f"{field.name}.{name}": option.default
        for field in dataclasses.fields(size)
        if isinstance(value := getattr(size, field.name), Composition)
        for name, option in value.schema.fields.items()
    }


def origin(about: dict[str, Any]) -> str:
    """Return a line that says what made a directory's rows: command, machine, version."""
    last = about["launches"][-1]
    machine = last["machine"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return (
        f"`{last['command']}`, {machine['processor']}, {machine['cores']} cores{gpu}; "
        f"torch {last['versions']['torch']}.\n"
    )
