"""Common parts of the figures' commands: arguments, saving, one line about a mistake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from isnas.drawing import save_figure
from isnas.runtime import parsing
from isnas.runtime.errors import UserError
from isnas.runtime.files import check_output


class Parser(parsing.Parser):
    """The parser of a figure's command, which has ``-o``; says what is wrong in one line.

    Parameters
    ----------
    name : str
        The figure's module.
    text : str
        The subject of the figure.
    suffixes : tuple of str
        The endings that the file may have; the first is the default's.
    """

    def __init__(
        self, name: str, text: str, suffixes: tuple[str, ...] = (".svg", ".png", ".pdf")
    ) -> None:
        super().__init__(prog=f"python -m figures.{name}", description=text, allow_abbrev=False)
        self.add_argument(
            "-o",
            "--out",
            metavar="FILE",
            default=f"{name}{suffixes[0]}",
            help=f"a file that ends in {' or '.join(suffixes)} (default {name}{suffixes[0]})",
        )


def run_command(
    parser: Parser, draw: Callable[[argparse.Namespace], Figure], arguments: Sequence[str] | None
) -> int:
    """Draw what the command line asks for and save it; return the exit status: 0, or 2 after a user's mistake."""
    given = parser.parse_args(arguments)
    try:
        check_output(given.out)
        save_figure(draw(given), given.out)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"written to {given.out}")
    return 0
