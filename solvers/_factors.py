"""Least squares on a few columns, factorised once for many right-hand sides, for many supports at once.

Of every support an orthonormal basis Q of the span of its columns is kept, and the triangle T = R^-1 of
A_S = Q R. For a b then ||b - A_S z|| = ||b - Q Q'b|| and z = T Q'b.
"""

import numpy as np

from ._convert import Array
from ._problem import EPS, exact_residual

# Distance from the span of earlier columns, as a fraction of the column's norm, below which the
# column adds nothing: above what rounding of the entries leaves between dependent columns.
DEPENDENT = 1e-13


def factorise(a: Array, *, least_norm: bool) -> tuple[Array, Array]:
    """Factors of supports.

    By Gram-Schmidt. What remains of a column beside those before it is taken with an exact residual
    and then made orthogonal twice, which is enough (Kahan and Parlett), however close it is to them.

    Parameters
    ----------
    a : array of shape (c, s, m)
        The columns of each support, as rows, at unit scale; zero where there is none.
    least_norm : bool
        Where columns are dependent, whether to make the coefficients those of least norm, measured
        with columns of one length. Otherwise a column that adds nothing has the coefficient 0.

    Returns
    -------
    basis : array of shape (c, s, m)
        Q', the rows orthonormal, or zero where a column adds nothing.
    triangle : array of shape (c, s, s)
        T.
    """
    count, s, _ = a.shape
    basis = np.zeros_like(a)
    triangle = np.zeros((count, s, s))
    dependent = np.zeros(count, dtype=bool)
    for k in range(s):
        column, before = a[:, k], basis[:, :k]
        share = np.zeros((count, k))  # of the columns before: column = share A_before + rest
        rest = column
        for step in range(3 if k else 0):
            inner = before @ rest[:, :, None]
            share += (triangle[:, :k, :k] @ inner)[:, :, 0]
            if step == 0:
                rest, _ = exact_residual(a[:, :k].transpose(0, 2, 1), column, share)
            else:
                rest = rest - (inner * before).sum(1)
        length = np.sqrt((column**2).sum(1))
        size = np.sqrt((rest**2).sum(1))
        new = size > DEPENDENT * length
        dependent |= ~new & (length > 0)
        inverse = np.divide(1, size, out=np.zeros_like(size), where=new)[:, None]
        basis[:, k] = rest * inverse
        # z_k = q_k'b / size, and its share is taken off the others.
        triangle[:, :k, k] = -share * inverse
        triangle[:, k, k] = inverse[:, 0]
    if least_norm and dependent.any():
        some = a[dependent]
        length = np.sqrt((some**2).sum(2))
        length[length == 0] = 1
        unit = basis[dependent] @ (some / length[:, :, None]).transpose(0, 2, 1)
        triangle[dependent] = np.linalg.pinv(unit, rcond=s * EPS) / length[:, :, None]
    return basis, triangle


def fit(a: Array, b: Array, basis: Array, triangle: Array) -> Array:
    """The least-squares coefficients of b (c, m) on each support, (c, s).

    With one step of refinement: the inverse of a triangle is less exact than solving with it.
    """
    z = np.zeros(a.shape[:2])
    for _ in range(2):
        rest, _ = exact_residual(a.transpose(0, 2, 1), b, z)
        z += (triangle @ (basis @ rest[:, :, None]))[:, :, 0]
    return z
