"""All tasks, by name."""

from __future__ import annotations

from ..spaces.base import Space
from .base import Task
from .image_task import ImageTask
from .language_task import LanguageTask

TASKS: dict[str, Task] = {task.name: task for task in (ImageTask(), LanguageTask())}
"""All tasks by name."""


def task_of(space: Space) -> Task:
    """Return the task that the networks of a space are for."""
    return TASKS[space.task]
