"""`python -m isnas` is the command `isnas`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
