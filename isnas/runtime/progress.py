"""Progress of a long command: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from .errors import printable


class Progress:
    """Progress of the stages of a command.

    Parameters
    ----------
    quiet : bool
        Whether to show nothing but the results.
    out : text stream
        Where it goes; standard error by default, so that results can be piped.
    """

    def __init__(self, quiet: bool = False, out: TextIO | None = None) -> None:
        self.quiet = quiet
        self.out = sys.stderr if out is None else out
        self._bar: tqdm[Any] | None = None
        self._begun = 0.0
        self._first = 0

    def say(self, text: str) -> None:
        """Show a line."""
        if self.quiet:
            return
        text = printable(text)
        if self._bar is not None:
            self._bar.write(text, file=self.out)
        else:
            print(text, file=self.out, flush=True)

    def begin(self, title: str, done: int, total: int) -> None:
        """Begin a stage of `total` steps, of which `done` are done."""
        self._begun, self._first = time.monotonic(), done
        if not self.quiet and self.out.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=title, unit="step", file=self.out, leave=False
            )
        else:
            self.say(f"{title}: {total} steps" + (f", going on at {done}" if done else ""))

    def step(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps are done."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def epoch(self, text: str, done: int, total: int) -> None:
        """Show an epoch's line, with the time that is left of the stage."""
        spent = time.monotonic() - self._begun
        left = spent * (total - done) / max(done - self._first, 1)
        minutes, seconds = divmod(round(left), 60)
        self.say(f"  {text}  left {minutes}:{seconds:02d}")

    def end(self) -> None:
        """End the stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
