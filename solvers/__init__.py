"""Sparse recovery: the LASSO and its relatives for small problems, in batches, certified.

    minimise over z   1/2 ||A z - b||^2 + lam ||z||_1

Takes torch tensors of any floating-point dtype on any device, with any batch dimensions, or
sequences of tensors for problems of different sizes; NumPy arrays in place of tensors, too, and then
answers with arrays. All is computed in float64 by NumPy on the
host, for the whole batch in lock-step, and returned in the caller's dtype and device: the
problems are tiny (7 x 14 to 7 x 35) and the algorithms sequential, so a device would only wait,
and one transfer each way is all it sees. Nothing is differentiated through, but for
`soft_threshold`, which is plain torch.

`truncate`, `best_subset` and `sparsest` give s non-zeros, on request at most one in each group of
columns; `BestSubset` is prepared once for many b. All but `truncate`, whose `signed` goes by value
instead of magnitude, take `non_negative` for the minimum over z >= 0.

This package knows nothing of networks.
"""

from typing import TYPE_CHECKING, Any

from ._best_subset import MOST_SUPPORTS, BestSubset, best_subset
from ._lasso import duality_gap, lasso, lasso_path
from ._matrices import measurement_matrix, mutual_coherence
from ._result import Knot, LassoResult, SparseResult
from ._soft_threshold import soft_threshold
from ._sparsest import sparsest
from ._truncate import truncate

if TYPE_CHECKING:
    from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "MOST_SUPPORTS",
    "BestSubset",
    "ConvergenceWarning",
    "Knot",
    "LassoResult",
    "SparseResult",
    "best_subset",
    "duality_gap",
    "lasso",
    "lasso_path",
    "measurement_matrix",
    "mutual_coherence",
    "soft_threshold",
    "sparsest",
    "truncate",
]


def __getattr__(name: str) -> Any:
    """Import scikit-learn's warning when it is asked for: a second that few need."""
    if name == "ConvergenceWarning":
        from sklearn.exceptions import ConvergenceWarning

        return ConvergenceWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
