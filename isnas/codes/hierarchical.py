"""HM-NAS's code: weights of edges and of operations, and real-valued masks on edges, operations and weights.

An edge is a node together with a state that it reads. With alpha the weights of an edge's operations and beta those of
a node's edges, the coefficient of a place is

    c(edge, operation) = softmax(beta of the node's edges)[edge] * softmax(alpha of the edge)[operation].

A mask m is a real number that acts as ``1[m > threshold]``, and whose gradient is that of the binary number
(straight-through). Masks form a hierarchy: an operation is active when its edge's mask and its own are on, a weight
when its own and its operation's are.

References
----------
Yan et al., "HM-NAS: Efficient Neural Architecture Search via Hierarchical Masking", arXiv 1909.00122. There is no
public code, and this is a reconstruction: see `isnas.searches.hm_nas`.
Mallya, Davis & Lazebnik, "Piggyback: Adapting a Single Network to Multiple Tasks by Learning to Mask Weights", ECCV
2018: the masks and their constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.core import CellNetwork, Coefficients
from ..runtime.randomness import generator
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype


class _Binary(torch.autograd.Function):
    """1[mask > threshold]; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, threshold: float) -> Tensor:
        return (mask > threshold).to(mask.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def binary(mask: Tensor, threshold: float) -> Tensor:
    """Return 1 where mask > threshold and 0 elsewhere; `mask` gets the gradient of the result, unchanged."""
    return _Binary.apply(mask, threshold)


class HierarchicalCode(nn.Module):
    """Weights and masks of all edges and operations of all kinds of cell.

    Parameters
    ----------
    space : Space
    init_scale : float
        Standard deviation of the initial alpha and beta (DARTS's).
    mask_init : float
        Initial value of the masks (Piggyback's).
    mask_threshold : float
        A mask is on above this (Piggyback's).
    seed : int
        The first alpha and beta are drawn from it.

    Attributes
    ----------
    alpha, operation_mask : nn.Parameter, shape (kinds, edges, operations)
    beta, edge_mask : nn.Parameter, shape (kinds, edges)
        Edges are ordered by node, then by source.
    """

    def __init__(
        self,
        space: Space,
        *,
        init_scale: float = 1e-3,
        mask_init: float = 1e-2,
        mask_threshold: float = 5e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.space = space
        self.mask_threshold = mask_threshold
        self._places = space.places()
        self._index = {place: i for i, place in enumerate(self._places)}
        self._edges_of = [space.inputs + node for node in range(space.nodes)]
        edges = (len(space.kinds), sum(self._edges_of))
        operations = (*edges, len(space.primitives))
        random = generator(seed, "hierarchical code")
        self.alpha = nn.Parameter(init_scale * torch.randn(operations, generator=random))
        self.beta = nn.Parameter(init_scale * torch.randn(edges, generator=random))
        self.operation_mask = nn.Parameter(torch.full(operations, mask_init))
        self.edge_mask = nn.Parameter(torch.full(edges, mask_init))

    def strengths(self) -> Tensor:
        """Return c of all places without masks, shape (kinds, edges, operations), differentiable in alpha and beta."""
        nodes = self.beta.split(self._edges_of, dim=1)
        of_edges = torch.cat([node.softmax(dim=1) for node in nodes], dim=1)
        return of_edges.unsqueeze(2) * self.alpha.softmax(dim=2)

    def coefficients(self) -> dict[str, Coefficients]:
        """Return the coefficients of all places without masks, differentiable in alpha and beta."""
        return self._all(self.strengths())

    def masked_coefficients(self) -> dict[str, Coefficients]:
        """Return the coefficients of all places with the masks, differentiable in the masks alone (straight-through).

        The places that are masked out are there with the coefficient 0: what is not run has no gradient, and could
        not come back.
        """
        edges = binary(self.edge_mask, self.mask_threshold)
        operations = binary(self.operation_mask, self.mask_threshold)
        return self._all(self.strengths().detach() * edges.unsqueeze(2) * operations)

    def _all(self, values: Tensor) -> dict[str, Coefficients]:
        return {
            kind: Coefficients(part.flatten(), self._places)
            for kind, part in zip(self.space.kinds, values.unbind(), strict=True)
        }

    def coefficients_at(self, places: Mapping[str, Sequence[Place]]) -> dict[str, Coefficients]:
        """Return the coefficients of these places only, as they are without masks."""
        found = {}
        for kind, part in zip(self.space.kinds, self.strengths().unbind(), strict=True):
            indices = [self._index[place] for place in places[kind]]
            chosen = part.flatten()[torch.tensor(indices, dtype=torch.int64, device=part.device)]
            found[kind] = Coefficients(chosen, tuple(places[kind]))
        return found

    @torch.no_grad()
    def survivors(self) -> dict[str, tuple[Place, ...]]:
        """Return the places of each kind of cell that the masks leave, sorted.

        A node that loses all its places keeps the one of largest c. Where candidates are in groups only that of
        largest c among a group's survivors counts: our adaptation, HM-NAS has no such space.
        """
        strengths = self.strengths()
        on = (self.edge_mask > self.mask_threshold).unsqueeze(2) & (
            self.operation_mask > self.mask_threshold
        )
        # one transfer from the device for both
        table = torch.stack([strengths, on.to(strengths)]).flatten(2).tolist()
        return {
            kind: self._survivors(dict(zip(self._places, c, strict=True)), active)
            for kind, c, active in zip(self.space.kinds, *table, strict=True)
        }

    def _survivors(self, c: dict[Place, float], active: Sequence[float]) -> tuple[Place, ...]:
        alive = [place for place, on in zip(self._places, active, strict=True) if on]
        grouped = {
            place: (choice.node, group)
            for choice in self.space.choices
            if choice.groups is not None
            for place, group in zip(choice.candidates, choice.groups, strict=True)
        }
        # of a group the weakest first: the last that is written stays
        strongest = {grouped.get(p, p): p for p in sorted(alive, key=c.__getitem__)}
        alive = list(strongest.values())
        reached = {place.node for place in alive}
        for node in range(self.space.nodes):
            if node not in reached:
                alive.append(max(self.space.candidates(node), key=c.__getitem__))
        return tuple(sorted(alive))

    def genotype(self) -> Genotype:
        """Return the architecture of the survivors."""
        return Genotype.from_places(self.survivors(), self.space)


def operation_weights(network: CellNetwork) -> dict[str, nn.Parameter]:
    """Return the weights of all operations in a network's cells, without batch norms, by their names in its state."""
    return {
        name: parameter
        for i, cell in enumerate(network.cells)
        for name, parameter in cell.nodes.operations.named_parameters(f"cells.{i}.nodes.operations")
        if parameter.ndim > 1
    }


class WeightMasks(nn.Module):
    """Masks of all weights of a super-net's operations: the lowest level of the hierarchy.

    Parameters
    ----------
    network : CellNetwork
    mask_init, mask_threshold : float
        See `HierarchicalCode`.

    Attributes
    ----------
    mask : nn.Parameter, shape (weights,)
        The masks of all the weights in one row, on the weights' device.
    """

    def __init__(
        self, network: CellNetwork, *, mask_init: float = 1e-2, mask_threshold: float = 5e-3
    ) -> None:
        super().__init__()
        self.mask_threshold = mask_threshold
        # no submodule: the network's state is not these masks'
        self._weights = operation_weights(network)
        self._sizes = [weight.numel() for weight in self._weights.values()]
        like = next(network.parameters())
        self.mask = nn.Parameter(like.new_full((sum(self._sizes),), mask_init))

    def forward(self) -> dict[str, Tensor]:
        """Return the masked weights by name, differentiable in the masks alone, for `torch.func.functional_call`."""
        masks = binary(self.mask, self.mask_threshold).split(self._sizes)
        return {
            name: weight.detach() * mask.view(weight.shape)
            for (name, weight), mask in zip(self._weights.items(), masks, strict=True)
        }

    @torch.no_grad()
    def apply_to_weights(self) -> None:
        """Set the weights that are masked out to zero, for good."""
        for name, masked in self().items():
            self._weights[name].copy_(masked)
