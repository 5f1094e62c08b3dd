"""The parser that all commands have: of `isnas`, of the figures and of the experiments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .errors import with_suggestion
from .processes import once


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with a suggestion where something known is near."""

    def error(self, message: str) -> NoReturn:
        """Print the line, once of several processes, and exit with status 2."""
        message = with_suggestion(message, self._option_string_actions)
        text = f"{self.prog}: error: {message} (see {self.prog} --help)\n"
        self.exit(2, text if once(text) else None)
