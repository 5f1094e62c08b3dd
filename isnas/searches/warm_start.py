"""Where codes begin: b0 = A z0, with z0 from a score of networks that are not trained.

Such a score (`isnas.searches.rankers`) is one number for an architecture; a code needs one for each candidate. It is
the candidate's effect in the sum over active candidates that fits the scores of fair paths best. z0 keeps the s largest
effects of a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

import solvers

from ..codes.fair import fair_path
from ..codes.sparse import SparseCode
from ..spaces.base import Place, Space

WarmStart = Literal["none", "parameters", "multiply-adds", "naswot"]
"""The scores that codes can begin with."""

PATHS = 2
"""Architectures that are scored, for each candidate of the space."""


def effects(
    space: Space,
    s: Sequence[int],
    score: Callable[[Mapping[str, tuple[Place, ...]]], float],
    *,
    seed: int = 0,
) -> list[Tensor]:
    """Return what each candidate does to a score: e with score = constant + sum over active candidates of e_k.

    By least squares, over fair paths; of equally good solutions the shortest. So the effects of candidates of which a
    fixed number is active have the mean 0, and a score that is such a sum is told exactly.

    Parameters
    ----------
    space : Space
    s : sequence of int
        Active places of every choice.
    score : callable
        Returns the score of the places of an architecture, of each kind of cell; higher is better.
    seed : int
        Scored are its first fair paths.

    Returns
    -------
    list of Tensor, shapes (n,), float64
        For every choice, in units of the score's standard deviation.
    """
    places = [(choice.kind, place) for choice in space.choices for place in choice.candidates]
    drawn = [fair_path(space, tuple(s), seed, step) for step in range(PATHS * len(places))]
    scores = torch.tensor([score(path) for path in drawn], dtype=torch.float64)
    there = torch.tensor(
        [[place in path[kind] for kind, place in places] for path in drawn], dtype=torch.float64
    )
    spread = scores.std().clamp_min(torch.finfo(torch.float64).tiny)
    fit = torch.linalg.lstsq(
        there - there.mean(0), ((scores - scores.mean()) / spread)[:, None], driver="gelsd"
    )
    return list(fit.solution[:, 0].split([len(choice.candidates) for choice in space.choices]))


@torch.no_grad()
def begin_at(code: SparseCode, found: Sequence[Tensor], length: float) -> None:
    """Set b = A z0 for every choice, with z0 the largest effects; no negative one is kept.

    Parameters
    ----------
    code : SparseCode
        It is not recovered from here.
    found : sequence of Tensor, shapes (n,)
        What `effects` returned.
    length : float
        The norm of every b; one whose effects are all zero is left as it is.
    """
    numbers = code.options.places(code.space)
    for b, A, choice, each, s in zip(code.b, code.A, code.choices, found, numbers, strict=True):
        z = solvers.truncate(each, s, choice.groups, signed=True).z.clamp_min(0)
        wanted = A @ z
        if wanted.norm() > 0:
            b.copy_(wanted * (length / wanted.norm()))
