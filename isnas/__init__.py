"""Sparse-coding, one-stage neural architecture search.

`search` and `train` do whole runs; the parts they are made of are here, too: genotypes and spaces, the sparse code, the
super-net and discrete networks, folding, data.
"""

__version__ = "0.1.0"

from .codes.sparse import SparseCode, SparseCodeOptions
from .commands import (
    RunResult,
    evaluate,
    load_network,
    resume,
    save_network,
    search,
    train,
)
from .comparison.compare import CompareOptions, Comparison, compare
from .drawing import draw_cells
from .networks.core import CellNetwork, Coefficients
from .networks.counting import count_multiply_adds, count_parameters
from .networks.darts import Network, NetworkOptions, build_network, build_supernet
from .networks.folding import fold, genotype_of
from .runs.loop import Interrupted
from .runs.options import EvaluateOptions, SearchOptions, TrainOptions
from .runs.records import RunRecord, Trajectory
from .runtime.errors import UserError
from .runtime.progress import Progress
from .spaces.base import DARTS_SPACE, PRIMITIVES, Place, Space
from .spaces.genotype import GENOTYPES, CellGenotype, Edge, Genotype, random_genotype
from .tasks.images import Dataset, load_dataset

__all__ = [
    "DARTS_SPACE",
    "GENOTYPES",
    "PRIMITIVES",
    "CellGenotype",
    "CellNetwork",
    "Coefficients",
    "CompareOptions",
    "Comparison",
    "Dataset",
    "Edge",
    "EvaluateOptions",
    "Genotype",
    "Interrupted",
    "Network",
    "NetworkOptions",
    "Place",
    "Progress",
    "RunRecord",
    "RunResult",
    "SearchOptions",
    "Space",
    "SparseCode",
    "SparseCodeOptions",
    "TrainOptions",
    "Trajectory",
    "UserError",
    "build_network",
    "build_supernet",
    "compare",
    "count_multiply_adds",
    "count_parameters",
    "draw_cells",
    "evaluate",
    "fold",
    "genotype_of",
    "load_dataset",
    "load_network",
    "random_genotype",
    "resume",
    "save_network",
    "search",
    "train",
]
