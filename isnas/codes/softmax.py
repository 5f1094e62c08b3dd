"""Softmax weights: the continuous relaxation of DARTS (arXiv 1806.09055) and the edge weights of PC-DARTS (1907.05737).

The candidates of an edge, (node, earlier state), or of a group share a weight of 1, with one more, `none`, which brings
nothing, where a place may stay empty: the weights are a softmax over a row of alphas. All places are active, so a step
costs all of them. With edge weights each row is multiplied by a softmax over the betas of its node's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks.core import Coefficients
from ..networks.operations import BYPASS, without_bypass
from ..runtime.errors import UserError
from ..runtime.randomness import generator
from ..spaces.base import Place, Space, rows_of
from ..spaces.genotype import Genotype

INIT_SCALE = 1e-3
"""Standard deviation of the initial alphas and betas (DARTS, PC-DARTS)."""


class SoftmaxCode(nn.Module):
    """Weights of all places of all kinds of cell; its parameters are the alphas, and the betas where there are any.

    Parameters
    ----------
    space : Space
        The super-net's. If its last primitive is the bypass of partial channels, a bypass has its edge's weight.
    s : int, sequence of int or None
        Edges that each node keeps, one number for all or one for each node, and all edges of nodes
        that have fewer; by default the space's. Not used where candidates are in groups: there
        each group decides for itself.
    edge_weights : bool
        Whether there are betas.
    seed : int
        The first alphas and betas are drawn from it.

    Attributes
    ----------
    alpha : nn.ParameterList, shapes (rows, K + 1)
        For each kind of cell; the columns are the candidates of a row, and last `none`.
    beta : nn.ParameterList, shapes (rows,)
        Likewise; empty without edge weights.
    rows : list of list of Place
        The candidates of each row.
    present : Tensor of bool, shape (rows, K + 1)
        Which columns a row has.

    Raises
    ------
    UserError
        When `s` does not fit the space.
    """

    def __init__(
        self,
        space: Space,
        s: int | Sequence[int] | None = None,
        *,
        edge_weights: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if BYPASS in space.primitives[:-1]:
            raise ValueError(f"{BYPASS!r} must be the last primitive, got {space.primitives}")
        self.space = space
        self.found_space = without_bypass(space)
        given = self.found_space.numbers("s", s)
        if given is not None and min(given) < 1:
            raise UserError(f"s must be at least 1, one number or one for each node, got {s!r}")
        for choice, number_of in zip(self.found_space.choices, given or (), strict=False):
            if choice.groups is None and choice.least == choice.most != number_of:
                raise UserError(
                    f"s must be {choice.most} in the space {space.name}: so many places a node has; got {number_of}"
                )
        self.s = given or tuple(choice.s for choice in self.found_space.choices)
        number = self.found_space.choices_of_kind()
        # all kinds have the same rows
        self._choices = self.found_space.choices[:number]
        self.rows = [row for choice in self._choices for row in rows_of(choice)]
        optional = [
            (choice.groups is None and choice.least < choice.most)
            or (choice.groups is not None and choice.optional)
            for choice in self._choices
            for _ in rows_of(choice)
        ]
        width = max(map(len, self.rows))
        there = torch.tensor(
            [
                [i < len(row) for i in range(width)] + [empty]
                for row, empty in zip(self.rows, optional, strict=True)
            ]
        )
        random = generator(seed, "code")

        def drawn(*shape: int) -> nn.ParameterList:
            return nn.ParameterList(
                nn.Parameter(INIT_SCALE * torch.randn(shape, generator=random)) for _ in space.kinds
            )

        self.alpha = drawn(len(self.rows), width + 1)
        self.beta = drawn(len(self.rows)) if edge_weights else nn.ParameterList()
        self.places = space.places()  # row by row, as the rows of alpha
        nodes = torch.tensor([row[0].node for row in self.rows])
        self.register_buffer("_same_node", nodes[:, None] == nodes, persistent=False)
        self.register_buffer("present", there, persistent=False)
        self._ragged = not bool(there.all())

    def coefficients(self) -> dict[str, Coefficients]:
        """Return the weights of all places, differentiable, for `CellNetwork.forward`."""
        found = {}
        for i, kind in enumerate(self.space.kinds):
            edge = self._edge_weights(self.beta[i]) if self.beta else None
            weights = self._weights(self.alpha[i], edge)
            if self.space != self.found_space:  # of the bypasses
                edge = weights.new_ones(len(weights)) if edge is None else edge
                weights = torch.cat([weights, edge[:, None]], dim=1)
                values = weights.flatten()
            else:
                values = weights[self.present[:, :-1]] if self._ragged else weights.flatten()
            found[kind] = Coefficients(values, self.places)
        return found

    def _weights(self, alpha: Tensor, edge: Tensor | None) -> Tensor:
        """Return the weights of the operations other than none, (rows, K)."""
        if self._ragged:
            alpha = alpha.masked_fill(~self.present.to(alpha.device), -torch.inf)
        weights = alpha.softmax(dim=1)[:, :-1]
        return weights if edge is None else weights * edge[:, None]

    def _edge_weights(self, beta: Tensor) -> Tensor:
        """Return the softmax of beta over the rows of each node, (rows,)."""
        # row e has the rows of e's node
        others = ~self._same_node.to(beta.device)
        rows = beta.expand(len(beta), -1).masked_fill(others, -torch.inf)
        return rows.softmax(dim=1).diagonal()

    @torch.no_grad()
    def genotype(self) -> Genotype:
        """Return the architecture that the weights stand for.

        As DARTS derives it: each node keeps the `s` edges whose strongest operation other than none is strongest, by
        its weight times its edge's (as PC-DARTS's code has it), with that operation, and all its edges if they are
        fewer. Where candidates are in groups every group keeps its strongest candidate, or none if that is stronger
        than all, as NAS-Bench-201 does for DARTS. Of equals the first is taken: by state, then by primitive, then none.

        Raises
        ------
        UserError
            When a weight is no longer finite: the search has diverged.
        """
        places: dict[str, list[Place]] = {}
        for i, kind in enumerate(self.space.kinds):
            alpha = self.alpha[i].cpu().double()
            there = self.present.cpu()
            edge = self._edge_weights(self.beta[i].cpu().double()) if self.beta else None
            strongest, operation = self._weights(alpha, edge).max(dim=1)
            if not strongest.isfinite().all():
                raise UserError(
                    f"the weights of the {kind} cell are not finite: the search has diverged; "
                    f"lower the learning rates"
                )
            strength = strongest.tolist()
            best = [row[k] for row, k in zip(self.rows, operation.tolist(), strict=True)]
            # a group may be empty where none is allowed and stronger than all
            alpha = alpha.masked_fill(~there, -torch.inf)
            nothing = (alpha.argmax(dim=1) == alpha.shape[1] - 1).tolist()
            places[kind] = []
            first = 0
            for choice, s in zip(self._choices, self.s, strict=False):
                rows = range(first, first + len(rows_of(choice)))
                first = rows.stop
                if choice.groups is not None:
                    places[kind] += [best[e] for e in rows if not nothing[e]]
                else:
                    kept = sorted(rows, key=lambda e: -strength[e])[:s]
                    places[kind] += [best[e] for e in kept]
        return Genotype.from_places(places, self.found_space)
