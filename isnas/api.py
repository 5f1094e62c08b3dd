"""All names of `isnas` that are public. `isnas` itself imports this when the first of them is used."""

from typing import TYPE_CHECKING, Any

from .codes.sparse import SparseCode, SparseCodeOptions
from .commands import RunResult, check_data, evaluate, resume, sample, search, train
from .comparison.compare import Comparison, compare
from .deployment.classifier import Classifier, Prediction, load_classifier
from .deployment.export import Exported, export_network
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
    "Classifier",
    "Coefficients",
    "Comparison",
    "DartsSpace",
    "Dataset",
    "Edge",
    "Exported",
    "Genotype",
    "ImageClassifier",
    "Interrupted",
    "Place",
    "Prediction",
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
    "export_network",
    "fold",
    "get_space",
    "list_runs",
    "load_classifier",
    "load_dataset",
    "load_network",
    "resume",
    "sample",
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
