"""Sparse-coding, one-stage neural architecture search.

`search` and `train` do whole runs; the parts they are made of are here, too: genotypes and spaces, the sparse code, the
super-net and discrete networks, folding, data.
"""

__version__ = "0.1.0"

from .commands import (
    RunResult,
    evaluate,
    load_network,
    resume,
    save_network,
    search,
    train,
)
from .comparison import CompareOptions, Comparison, compare
from .counting import count_multiply_adds, count_parameters
from .data import Dataset, load_dataset
from .drawing import draw_cells
from .engine import Interrupted
from .errors import UserError
from .folding import fold, genotype_of
from .genotype import GENOTYPES, CellGenotype, Edge, Genotype, random_genotype
from .network import Network, NetworkOptions, build_network, build_supernet
from .options import EvaluateOptions, SearchOptions, TrainOptions
from .progress import Progress
from .records import RunRecord, Trajectory
from .space import DARTS_SPACE, PRIMITIVES, Place, Space
from .sparse_code import SparseCode, SparseCodeOptions
from .supernet import CellNetwork, Coefficients

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
