"""What a user's mistake raises. The command prints it as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: it names what was wrong and what was expected."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` with the known word that is nearly `word`, or nothing where there is none."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
