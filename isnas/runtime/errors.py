"""Errors for a user's mistakes. The command prints them as one line, without a traceback."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any, ClassVar


class UserError(ValueError):
    """A mistake in what the user gave: it names what was wrong and what was expected.

    The message is one line of printable characters, whatever names and values it was made of.
    """

    longest: ClassVar[int] = 2000
    """Characters of the message at most: what is longer loses its middle."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, self.longest))


class FileError(UserError):
    """A file that cannot be read, written or used."""

    longest = 300


def printable(text: str, longest: int | None = None) -> str:
    """Return a text as one line that does nothing to a terminal.

    Parameters
    ----------
    text : str
    longest : int, optional
        Characters at most: what is longer loses its middle.

    Examples
    --------
    >>> print(printable("a\\x1b[2J\\nb"))
    a\\x1b[2J\\nb
    """
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in (text if longest is None else _shortened(text, longest))
        )
    return text if longest is None else _shortened(text, longest)


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    gap = " ... "
    end = (longest - len(gap)) // 2
    return f"{text[: longest - len(gap) - end]}{gap}{text[-end:]}"


def short(value: Any, longest: int = 60) -> str:
    """Return a value in a few characters for a message, whatever it is: also one that is huge, deep or hostile."""
    shown = reprlib.Repr()
    shown.maxlevel = 3
    shown.maxstring = shown.maxother = shown.maxlong = longest
    shown.maxdict = shown.maxlist = shown.maxtuple = 4
    try:
        text = shown.repr(value)
    except (
        ValueError,
        RecursionError,
    ):  # a number of thousands of digits, as Python refuses to write
        text = f"a {type(value).__name__}"
    return printable(text, longest)


def suggestion(word: Any, known: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` with the known word that is nearly `word`, or nothing where there is none."""
    if not isinstance(word, str):
        return ""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_one(name: str, text: str) -> None:
    """Raise a `UserError` where one of several words of an option holds several of them.

    Parameters
    ----------
    name : str
        The option's.
    text : str
        One of its words.
    """
    if isinstance(text, str) and len(re.split(r"[,;\s]+", text)) > 1:
        raise UserError(
            f"{name} are separated by spaces, each a word of its own; got {short(text)}"
        )


def with_suggestion(message: str, options: Iterable[str]) -> str:
    """Return a message of argparse with the option or the choice that was nearly given, where there is one.

    Parameters
    ----------
    message : str
        On an unknown option or choice; any other is returned as it is.
    options : iterable of str
        The options that the parser knows, such as ``--seed``.
    """
    word = re.match(r"unrecognized arguments: -+([^\s=]+)", message)
    if word is not None:
        names = {option.lstrip("-"): option for option in options}  # dashes make nothing near
        close = difflib.get_close_matches(word[1], names, n=1)
        close = close or [name for name in names if name.startswith(f"{word[1]}-")]
        return message + (f"; did you mean {names[close[0]]}?" if len(close) == 1 else "")
    word = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    return message + (suggestion(word[1], re.findall(r"[\w-]+", word[2])) if word else "")
