"""The commands as functions: search, train, evaluate, resume, sample.

They put stages, tasks and records together.
"""

from .check_data import check_data
from .evaluate import evaluate, test_saved, train_further
from .resume import resume
from .run import RunResult
from .sample import sample
from .search import search, train

__all__ = [
    "RunResult",
    "check_data",
    "evaluate",
    "resume",
    "sample",
    "search",
    "test_saved",
    "train",
    "train_further",
]
