"""ISTA and FISTA: a gradient step on 1/2 ||A z - b||^2, then the soft threshold.

    z <- soft_threshold(y - A'(A y - b) / L, lam / L),      L = largest eigenvalue of A'A

with y = z for ISTA (Daubechies, Defrise and De Mol, 2004; converges for any step below 2/L) and
y extrapolated for FISTA (Beck and Teboulle, 2009; step 1/L).
"""

import numpy as np

from ._convert import Array
from ._problem import Problem


class ProximalGradient:
    """ISTA, or FISTA with adaptive restart, on a batch of problems.

    The momentum is dropped whenever it points uphill, (y - z_new)'(z_new - z_old) > 0
    (O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes", 2015, eq. 13).

    Parameters
    ----------
    problem : Problem
        With z >= 0 the threshold's negative results become zero.
    z : array of shape (p, n)
        The start.
    accelerate : bool
        FISTA instead of ISTA.
    """

    def __init__(self, problem: Problem, z: Array, *, accelerate: bool) -> None:
        A = problem.A
        eigenvalue = np.linalg.svd(A, compute_uv=False)[:, 0] ** 2
        step = 1 / np.where(eigenvalue > 0, eigenvalue, 1)  # A = 0: any step will do
        self.z = self._y = z
        self._t = np.ones(len(A))
        self._step = step
        # With the step put into A'A and A'b, an iteration is one small product.
        self._hessian = step[:, None, None] * (A.transpose(0, 2, 1) @ A)
        self._target = step[:, None] * (problem.b[:, None, :] @ A)[:, 0]
        self._accelerate = accelerate
        self._least = 0.0 if problem.non_negative else -np.inf

    def advance(self, penalty: Array, steps: int) -> None:
        threshold = penalty * self._step[:, None]
        for _ in range(steps):
            y = self._y
            v = y - (self._hessian @ y[:, :, None])[:, :, 0] + self._target
            # The soft threshold.
            z = np.maximum(v - np.clip(v, -threshold, threshold), self._least)
            if self._accelerate:
                move = z - self.z
                uphill = ((y - z) * move).sum(1) > 0
                t = np.where(uphill, 1, (1 + np.sqrt(1 + 4 * self._t**2)) / 2)
                momentum = np.where(uphill, 0, (self._t - 1) / t)
                self._t = t
                self._y = z + momentum[:, None] * move
            else:
                self._y = z
            self.z = z

    def restart(self, where: Array, z: Array) -> None:
        self.z = np.where(where[:, None], z, self.z)
        self._y = np.where(where[:, None], z, self._y)
        self._t = np.where(where, 1, self._t)

    def keep(self, where: Array) -> None:
        self.z, self._y, self._t = self.z[where], self._y[where], self._t[where]
        self._step, self._hessian = self._step[where], self._hessian[where]
        self._target = self._target[where]
