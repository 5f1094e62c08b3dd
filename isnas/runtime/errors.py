"""What a user's mistake raises. The command prints it as one line, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: it names what was wrong and what was expected."""
