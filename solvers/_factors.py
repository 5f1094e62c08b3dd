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
CLOSE = 1e-3  # likewise: below, so many digits would be lost


def factorise(a: Array, *, least_norm: bool) -> tuple[Array, Array]:
    """Factors of supports.

    By Gram-Schmidt, each column orthogonalised twice ("twice is enough", Kahan and Parlett). Of a
    column close to the span of those before it little but rounding would remain: there it is done
    again from an exact residual.

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
        column, before, inverse = a[:, k], basis[:, :k], triangle[:, :k, :k]
        length = np.sqrt((column**2).sum(1))
        rest, share = _orthogonal(column, before, inverse)
        size = np.sqrt((rest**2).sum(1))
        close = (size < CLOSE * length) & (length > 0)
        if close.any():
            columns = a[close, :k].transpose(0, 2, 1)
            left, _ = exact_residual(columns, column[close], share[close])
            rest[close], more = _orthogonal(left, before[close], inverse[close])
            share[close] += more
            size = np.sqrt((rest**2).sum(1))
        new = size > DEPENDENT * length
        dependent |= ~new & (length > 0)
        scale = np.divide(1, size, out=np.zeros_like(size), where=new)[:, None]
        basis[:, k] = rest * scale
        # z_k = q_k'b / size, and its share is taken off the others.
        triangle[:, :k, k] = -share * scale
        triangle[:, k, k] = scale[:, 0]
    if least_norm and dependent.any():
        some = a[dependent]
        length = np.sqrt((some**2).sum(2))
        length[length == 0] = 1
        unit = basis[dependent] @ (some / length[:, :, None]).transpose(0, 2, 1)
        triangle[dependent] = np.linalg.pinv(unit, rcond=s * EPS) / length[:, :, None]
    return basis, triangle


def _orthogonal(x: Array, basis: Array, triangle: Array) -> tuple[Array, Array]:
    """Return x (c, m) less its projection on a basis (c, k, m), and the projection's coefficients.

    These, (c, k), are the ones of the support's columns.
    """
    share = np.zeros(basis.shape[:2])
    if basis.shape[1]:
        for _ in range(2):
            inner = basis @ x[:, :, None]
            share += (triangle @ inner)[:, :, 0]
            x = x - (inner * basis).sum(1)
    return x, share


def fit(a: Array, b: Array, basis: Array, triangle: Array) -> Array:
    """Return the least-squares coefficients of b (c, m) on each support, (c, s).

    With one step of refinement: the inverse of a triangle is less exact than solving with it.
    """
    z = (triangle @ (basis @ b[:, :, None]))[:, :, 0]
    rest, _ = exact_residual(a.transpose(0, 2, 1), b, z)
    return z + (triangle @ (basis @ rest[:, :, None]))[:, :, 0]
