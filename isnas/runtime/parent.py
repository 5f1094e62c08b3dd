"""The end of a process that torchrun started, when torchrun ends without ending it.

torchrun stops its processes when it is asked to stop, and when one of them fails. When it is killed it cannot: they
would train on, or wait for each other in vain until a timeout of many minutes.
"""

from __future__ import annotations

import os
import signal
import threading
import time

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""A variable of the environment that torchrun gives its processes."""

EVERY = 1.0
"""Seconds between two looks at the parent."""

GRACE = 30.0
"""Seconds that a step and a checkpoint may take after that."""

_watched = False


def stop_with_parent() -> None:
    """Stop this process soon after the one that started it, if that was torchrun.

    It is sent SIGTERM, as torchrun would have done: training stops after the present step and writes a checkpoint. What
    has not ended then waits for a process that is no more, and is ended.
    """
    global _watched
    if TORCHRUN not in os.environ or _watched:
        return
    _watched = True
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)
