"""Sparse-coding, one-stage neural architecture search.

`search`, `train`, `evaluate` and `compare` do whole runs; the parts they are made of are here, too: spaces and
genotypes, the sparse code, super-nets and discrete networks, folding, data.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from .codes.sparse import SparseCode, SparseCodeOptions
from .commands import RunResult, check_data, evaluate, resume, search, train
from .comparison.compare import Comparison, compare
from .networks.core import CellNetwork, Coefficients
from .networks.counting import count_multiply_adds, count_parameters
from .networks.folding import fold
from .networks.registry import build_network, build_supernet
from .runs.listing import list_runs
from .runs.loop import Interrupted
from .runs.records import RunRecord, Trajectory
from .runs.saved import load_network, save_network
from .runtime.errors import UserError
from .runtime.progress import Progress
from .searches.registry import METHODS, search_options
from .spaces import SPACES
from .spaces import get as get_space
from .spaces.base import Choice, Place, Space
from .spaces.darts import DARTS_SPACE, GENOTYPES, DartsSpace
from .spaces.genotype import CellGenotype, Edge, Genotype
from .spaces.nasbench201 import NASBENCH201_SPACE
from .tasks.images import Dataset, load_dataset

if TYPE_CHECKING:
    from .drawing import draw_cells
    from .estimator import ImageClassifier

__all__ = [
    "DARTS_SPACE",
    "GENOTYPES",
    "METHODS",
    "NASBENCH201_SPACE",
    "SPACES",
    "CellGenotype",
    "CellNetwork",
    "Choice",
    "Coefficients",
    "Comparison",
    "DartsSpace",
    "Dataset",
    "Edge",
    "Genotype",
    "ImageClassifier",
    "Interrupted",
    "Place",
    "Progress",
    "RunRecord",
    "RunResult",
    "Space",
    "SparseCode",
    "SparseCodeOptions",
    "Trajectory",
    "UserError",
    "build_network",
    "build_supernet",
    "check_data",
    "compare",
    "count_multiply_adds",
    "count_parameters",
    "draw_cells",
    "evaluate",
    "fold",
    "get_space",
    "list_runs",
    "load_dataset",
    "load_network",
    "resume",
    "save_network",
    "search",
    "search_options",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import what draws, or needs scikit-learn, only when it is asked for: their libraries take a second."""
    if name == "draw_cells":
        from .drawing import draw_cells

        return draw_cells
    if name == "ImageClassifier":
        from .estimator import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
