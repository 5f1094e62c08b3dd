"""All tasks, by name."""

from __future__ import annotations

from ..runtime.errors import UserError, short
from ..spaces.base import Space
from .base import Task
from .image_task import ImageTask
from .language_task import LanguageTask

TASKS: dict[str, Task] = {task.name: task for task in (ImageTask(), LanguageTask())}
"""All tasks by name."""

FIRST = ImageTask.name
"""The task of records that name none: early versions knew no other."""


def task_named(name: str) -> Task:
    """Return a task by its name.

    Raises
    ------
    UserError
        When there is none of that name.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"no task is called {short(name)}; there are {', '.join(TASKS)}")
    return TASKS[name]


def task_of(space: Space) -> Task:
    """Return the task that the networks of a space are for."""
    return TASKS[space.task]
