"""What a user's mistake raises. The command prints it as one line, without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: it names what was wrong and what was expected."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` with the known word that is nearly `word`, or nothing where there is none."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def with_suggestion(message: str, options: Iterable[str]) -> str:
    """Return a message of argparse with the option or the choice that was nearly given, where there is one.

    Parameters
    ----------
    message : str
        On an unknown option or choice; any other is returned as it is.
    options : iterable of str
        The options that the parser knows, such as ``--seed``.
    """
    known = options
    word = re.match(r"unrecognized arguments: (-\S+)", message)
    if word is None:
        word = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        known = re.findall(r"[\w-]+", word[2]) if word else ()
    return message + (suggestion(word[1].partition("=")[0], known) if word else "")
