"""Results of the solvers: small immutable values.

Where b came as a NumPy array, or several, arrays stand in the place of tensors.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LassoResult:
    """The answer to one LASSO problem, or to a batch of them.

    Attributes
    ----------
    z : Tensor of shape (..., n), or tuple of Tensors of shape (..., n_i)
        The minimisers; a tuple when the problems came as sequences.
    gap : Tensor of shape (...)
        Relative duality gap of each answer in float64: that of `solvers.duality_gap`, or, where
        it is above `tol`, with the residual of the exact minimiser on the answer's support as the
        dual point, if that shows a gap of at most `tol`. Infinite where a coefficient is too
        large for the dtype.
    iterations : Tensor of shape (...), int64
        Iterations spent on each problem: proximal steps, sweeps, or steps of the path.
    converged : Tensor of shape (...), bool
        Whether `gap <= tol`. False also where b, lam or z are so small that float64 cannot hold
        what the answer contributes.
    method : str
        The method that was asked for.
    """

    z: Tensor | tuple[Tensor, ...]
    gap: Tensor
    iterations: Tensor
    converged: Tensor
    method: str


@dataclass(frozen=True)
class Knot:
    """A point where the LASSO's active set changes; between two of them z is linear in lam.

    Attributes
    ----------
    lam : float
        The penalty at the knot.
    support : tuple of int
        The non-zeros of `z`, ascending. (A column that joins here is still zero here.)
    z : Tensor of shape (n,)
        The minimiser at `lam`.
    """

    lam: float
    support: tuple[int, ...]
    z: Tensor


@dataclass(frozen=True)
class SparseResult:
    """Least-squares coefficients on chosen columns.

    Attributes
    ----------
    z : Tensor of shape (..., n), or tuple of Tensors of shape (..., n_i)
        The coefficients; zero off the support.
    support : tuple of int, or tuple of tuples of int
        The chosen columns, ascending; one tuple per problem (in row-major order) for a batch,
        also where each matrix of a sequence has many b.
    residual : Tensor of shape (...)
        `||A z - b||` of the float64 z; from `truncate`, where A = I and b is the whole vector, what was cut off.
    """

    z: Tensor | tuple[Tensor, ...]
    support: tuple[int, ...] | tuple[tuple[int, ...], ...]
    residual: Tensor
