"""Cyclic coordinate descent: minimise over one coefficient after the other.

Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear models via
coordinate descent" (2010). One iteration is a sweep over all columns. It always converges: the
penalty is separable (Tseng, 2001).
"""

import numpy as np

from ._convert import Array
from ._problem import Problem, correlations, residual


class CoordinateDescent:
    """Coordinate descent on a batch of problems, column j of all of them at once.

    Parameters
    ----------
    problem : Problem
    z : array of shape (p, n)
        The start.
    """

    def __init__(self, problem: Problem, z: Array) -> None:
        A = problem.A
        self.z = z.copy()
        self._least = 0.0 if problem.non_negative else -np.inf
        self._A = A
        self._b = problem.b
        # Columns first: each visit then reads contiguous memory.
        self._gram = np.ascontiguousarray((A.transpose(0, 2, 1) @ A).transpose(1, 0, 2))
        self._square = np.einsum("pmn,pmn->np", A, A)

    def advance(self, penalty: Array, steps: int) -> None:
        # Afresh every time, so that rounding does not pile up over thousands of sweeps.
        c = correlations(self._A, residual(self._A, self._b, self.z)).T.copy()
        z = self.z.T.copy()
        threshold = penalty.T
        square = np.where(self._square > 0, self._square, 1)
        columns = [j for j in range(len(z)) if self._square[j].any()]
        for _ in range(steps):
            for j in columns:
                v = c[j] + self._square[j] * z[j]
                new = np.maximum(
                    (v - np.clip(v, -threshold[j], threshold[j])) / square[j], self._least
                )
                c -= self._gram[j].T * (new - z[j])
                z[j] = new
        self.z = z.T.copy()

    def restart(self, where: Array, z: Array) -> None:
        self.z = np.where(where[:, None], z, self.z)

    def keep(self, where: Array) -> None:
        self.z, self._A, self._b = self.z[where], self._A[where], self._b[where]
        self._gram, self._square = self._gram[:, where], self._square[:, where]
