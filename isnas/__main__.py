"""The command `isnas`, also as `python -m isnas`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from .runtime.parent import stop_with_parent


def main() -> int:
    """Run the command and return its exit status, see `isnas.cli.main`.

    Importing PyTorch takes seconds. Who interrupts the command meanwhile sees one line, not where the import was.
    """
    stop_with_parent()
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # neither ignored nor handled by somebody else
        signal.signal(signal.SIGINT, _leave)
    from .cli import main as run

    signal.signal(signal.SIGINT, usual)
    return run()


def _leave(*_: object) -> NoReturn:
    # an exception in the middle of an import may come out as another; nothing has begun that would need an end
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopped\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
