"""Softmax weights: the continuous relaxation of DARTS (arXiv 1806.09055) and the edge weights of PC-DARTS (1907.05737).

On every edge, (node, earlier state), the operations share a weight of 1 with one more, `none`, which brings nothing:
the weights are a softmax over an edge's alphas. All places are active, so a step costs all of them. With edge weights
each edge's operations are multiplied by a softmax over the betas of its node's edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks.core import Coefficients
from ..networks.operations import BYPASS, without_bypass
from ..runtime.errors import UserError
from ..runtime.randomness import generator
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype

INIT_SCALE = 1e-3
"""Standard deviation of the initial alphas and betas (DARTS, PC-DARTS)."""


class SoftmaxCode(nn.Module):
    """Weights of all places of all kinds of cell; its parameters are the alphas, and the betas where there are any.

    Parameters
    ----------
    space : Space
        The super-net's. If its last primitive is the bypass of partial channels, a bypass has its edge's weight.
    s : int or sequence of int
        Edges that each node keeps, or one number for each node of a cell; all edges of nodes that have fewer. Not used
        in spaces with one operation per edge, where each edge decides for itself.
    edge_weights : bool
        Whether there are betas.
    seed : int
        The first alphas and betas are drawn from it.

    Attributes
    ----------
    edges : list of (node, source)
        Of a cell, node by node.
    alpha : nn.ParameterList, shapes (edges, K + 1)
        For each kind of cell; the columns are the primitives but the bypass, and last `none`.
    beta : nn.ParameterList, shapes (edges,)
        Likewise; empty without edge weights.

    Raises
    ------
    UserError
        When `s` has not one number for each node, or one below 1.
    """

    def __init__(
        self,
        space: Space,
        s: int | Sequence[int] = 2,
        *,
        edge_weights: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if BYPASS in space.primitives[:-1]:
            raise ValueError(f"{BYPASS!r} must be the last primitive, got {space.primitives}")
        self.space = space
        self.found_space = without_bypass(space)
        self.s = tuple([s] * space.nodes if isinstance(s, int) else s)
        if len(self.s) != space.nodes or min(self.s) < 1:
            raise UserError(
                f"s must be at least 1, one number or one for each of {space.nodes} nodes, got {s!r}"
            )
        self.edges = [
            (node, source) for node in range(space.nodes) for source in range(space.inputs + node)
        ]
        random = generator(seed, "code")
        columns = len(self.found_space.primitives) + 1

        def drawn(*shape: int) -> nn.ParameterList:
            return nn.ParameterList(
                nn.Parameter(INIT_SCALE * torch.randn(shape, generator=random)) for _ in space.kinds
            )

        self.alpha = drawn(len(self.edges), columns)
        self.beta = drawn(len(self.edges)) if edge_weights else nn.ParameterList()
        self.places = space.places()  # edge by edge, as the rows of alpha
        nodes = torch.tensor([node for node, _ in self.edges])
        self.register_buffer("_same_node", nodes[:, None] == nodes, persistent=False)

    def coefficients(self) -> dict[str, Coefficients]:
        """Return the weights of all places, differentiable, for `CellNetwork.forward`."""
        found = {}
        for i, kind in enumerate(self.space.kinds):
            edge = self._edge_weights(self.beta[i]) if self.beta else None
            weights = self._weights(self.alpha[i], edge)
            if self.space != self.found_space:  # of the bypasses
                edge = weights.new_ones(len(weights)) if edge is None else edge
                weights = torch.cat([weights, edge[:, None]], dim=1)
            found[kind] = Coefficients(weights.flatten(), self.places)
        return found

    def _weights(self, alpha: Tensor, edge: Tensor | None) -> Tensor:
        """Return the weights of the operations other than none, (edges, K)."""
        weights = alpha.softmax(dim=1)[:, :-1]
        return weights if edge is None else weights * edge[:, None]

    def _edge_weights(self, beta: Tensor) -> Tensor:
        """Return the softmax of beta over the edges of each node, (edges,)."""
        # row e has the edges of e's node
        others = ~self._same_node.to(beta.device)
        rows = beta.expand(len(beta), -1).masked_fill(others, -torch.inf)
        return rows.softmax(dim=1).diagonal()

    @torch.no_grad()
    def genotype(self) -> Genotype:
        """Return the architecture that the weights stand for.

        As DARTS derives it: each node keeps the `s` edges whose strongest operation other than none is strongest, by
        its weight times its edge's (as PC-DARTS's code has it), with that operation, and all its edges if they are
        fewer. In spaces with one operation per edge every edge keeps its strongest operation, or none if that is
        stronger than all, as NAS-Bench-201 does for DARTS. Of equals the first is taken: by state, then by primitive,
        then none.

        Raises
        ------
        UserError
            When a weight is no longer finite: the search has diverged.
        """
        places: dict[str, list[Place]] = {}
        for i, kind in enumerate(self.space.kinds):
            alpha = self.alpha[i].cpu().double()
            edge = self._edge_weights(self.beta[i].cpu().double()) if self.beta else None
            strongest, operation = self._weights(alpha, edge).max(dim=1)
            if not strongest.isfinite().all():
                raise UserError(
                    f"the weights of the {kind} cell are not finite: the search has diverged; "
                    f"lower the learning rates"
                )
            strength = strongest.tolist()
            candidates = [
                Place(*edge, best)
                for edge, best in zip(self.edges, operation.tolist(), strict=True)
            ]
            if self.space.one_per_edge:
                nothing = (alpha.argmax(dim=1) == alpha.shape[1] - 1).tolist()
                places[kind] = [
                    place for place, no in zip(candidates, nothing, strict=True) if not no
                ]
                continue
            places[kind] = []
            for node, s in enumerate(self.s):
                own = [e for e, place in enumerate(candidates) if place.node == node]
                kept = sorted(own, key=lambda e: -strength[e])[:s]
                places[kind] += [candidates[e] for e in kept]
        return Genotype.from_places(places, self.found_space)
