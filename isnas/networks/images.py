"""The common parts of networks of images: their contract, and cells whose nodes add up feature maps.

Shapes: a batch of images is (B, in_channels, H, W), a feature map (B, channels, H, W).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..runtime.errors import UserError, short
from ..spaces.base import Place, Space
from .core import CellNetwork, Coefficients, Incoming, Term
from .operations import BYPASS, OPERATIONS, ClosingNorm, layout, shuffled


class ImageNetwork(CellNetwork):
    """A network of cells that classifies images.

    Parameters
    ----------
    space, places, concat
        See `CellNetwork`.
    options
        A frozen dataclass with `in_channels`, `classes`, `closing_norm` and, where channels can be partial, `partial`.

    Attributes
    ----------
    stem : nn.Module
        The part before the cells; set by the network.
    classifier : nn.Linear
        Its last layer, likewise.

    Raises
    ------
    UserError
        When channels are partial and the space has no bypass, or the other way round.
    """

    stem: nn.Module
    classifier: nn.Linear

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: Any,
    ) -> None:
        super().__init__(space, places, concat, options)
        if (self._partial > 1) != (BYPASS in space.primitives):
            raise UserError(
                f"partial channels and the primitive {BYPASS!r} need each other; got partial = "
                f"{self._partial} and the primitives {', '.join(space.primitives)}"
            )

    @property
    def _partial(self) -> int:
        return getattr(self.options, "partial", 1)

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        drop_path_mask: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, H, W)
        coefficients : mapping of kind to Coefficients, optional
            See `CellNetwork.forward`.
        drop_path_mask : Tensor, shape (active operations, B), optional
            Factors of drop path for them, see `isnas.networks.core.drop_path`; stride-1 skips are left alone, see
            `drop_skips`.
        dropout : Tensor, shape (B, features), optional
            Factors of dropout for the features that the classifier reads.

        Returns
        -------
        Tensor, shape (B, classes)
            Class scores.
        """

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the modules that features pass one after the other: the stem, then the cells and what is between."""
        return (self.stem, *self.cells)

    def example(self, size: tuple[int, ...], device: torch.device | str) -> Tensor:
        """Return a batch of one image of some size, (H, W) pixels, without content."""
        return torch.empty(1, self.options.in_channels, *size, device=device)

    @staticmethod
    def units(x: Tensor) -> int:
        """Return the number of images in a batch."""
        return len(x)

    def check_foldable(self) -> None:
        """Raise a `UserError` unless every operation can absorb a coefficient and works on all channels."""
        if self._partial > 1:
            raise UserError("fold needs a super-net that works on all channels (partial=1)")
        super().check_foldable()

    @property
    def features(self) -> int:
        """Number of features that the classifier reads."""
        return self.classifier.in_features


class Nodes(nn.Module):
    """The nodes of a cell: each adds up its incoming operations.

    Parameters
    ----------
    space : Space
    places : iterable of Place
        The operations to build.
    channels : int
        Channels of the states.
    stride : int
        Stride of the operations on the cell's inputs.
    closing_norm : ClosingNorm
    partial : int
        Operations work on the first channels / partial channels of a state only; the bypasses carry the others, and
        all are shuffled at every node (PC-DARTS, arXiv 1907.05737, section 3.2).
    """

    def __init__(
        self,
        space: Space,
        places: Iterable[Place],
        channels: int,
        stride: int,
        closing_norm: ClosingNorm,
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.partial = partial
        self.worked = channels // partial  # channels that operations work on
        self.bypasses: set[str] = set()
        self.operations = nn.ModuleDict()
        for place in places:
            primitive, key = space.primitives[place.operation], space.place_key(place)
            of_input = place.source < space.inputs
            self.operations[key] = OPERATIONS[primitive](
                self.worked, stride if of_input else 1, closing_norm
            )
            if primitive == BYPASS:
                self.bypasses.add(key)

    def forward(self, states: list[Tensor], incoming: Incoming) -> list[Tensor]:
        """Return the inputs, (B, channels, H, W) each, and the nodes, (B, channels, H / stride, W / stride)."""
        states = list(states)
        if self.partial > 1:
            return self._partial(states, incoming)
        for terms in incoming:
            states.append(self._sum(terms, states, self.channels))
        return states

    def _partial(self, states: list[Tensor], incoming: Incoming) -> list[Tensor]:
        """Return the same as `forward` where channels are partial.

        Joining and shuffling are linear and the same for all edges, so they are done once for a node.
        """
        parts = [self._split(state) for state in states]
        for terms in incoming:
            working = [term for term in terms if term.key not in self.bypasses]
            passing = [term for term in terms if term.key in self.bypasses]
            firsts, rests = ([part[i] for part in parts] for i in range(2))
            worked = self._sum(working, firsts, self.worked)
            passed = self._sum(passing, rests, self.channels - self.worked)
            states.append(shuffled(worked, passed, self.partial))
            parts.append(self._split(states[-1]))
        return states

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        # many operations read the first part: it is worth a compact copy
        first = state[:, : self.worked].contiguous(memory_format=layout(state))
        return first, state[:, self.worked :]

    def _sum(self, terms: list[Term], states: list[Tensor], channels: int) -> Tensor:
        """Return the sum of incoming operations, (B, channels, H / stride, W / stride)."""
        node: Tensor | None = None
        for term in terms:
            operation = self.operations[term.key]
            out = operation(states[term.source], term.factor)
            if operation.droppable:
                out = term.silenced(out)
            node = out if node is None else node + out
        if node is None:  # a node that nothing reaches is zero
            step = self.stride
            node = torch.zeros_like(states[0][:, :channels, ::step, ::step])
        return node


def check_partial(partial: int, channels: int) -> None:
    """Raise a `UserError` unless `channels` can be divided into `partial` equal parts."""
    if isinstance(partial, bool) or not isinstance(partial, int) or partial < 1:
        raise UserError(f"partial must be a whole number of at least 1, got {partial!r}")
    if channels % partial:
        raise UserError(
            f"channels must be a multiple of partial, {partial}: the operations work on one of "
            f"{partial} equal parts; got {channels}"
        )


def drop_skips(network: ImageNetwork) -> None:
    """Let drop path silence stride-1 skips, too; not the bypass of partial channels, which is no candidate."""
    for cell in network.cells:
        for key, operation in cell.nodes.operations.items():
            operation.droppable = key not in cell.nodes.bypasses


def pooled(x: Tensor, dropout: Tensor | None = None) -> Tensor:
    """Return the means of feature maps, (B, C, H, W) -> (B, C), times what dropout multiplies them by, if anything."""
    x = x.mean(dim=(2, 3))
    return x if dropout is None else x * dropout.to(x.dtype)


def check_images(x: Tensor, channels: int) -> None:
    """Raise a `UserError` unless x is a batch of images of so many channels, ready for a network."""
    if isinstance(x, fx.Proxy):  # while the network is traced
        return
    if not isinstance(x, Tensor):
        raise UserError(f"images must be a tensor of shape (B, {channels}, H, W), got {short(x)}")
    if torch.jit.is_tracing():  # there sizes are tensors
        return
    if x.dim() != 4 or x.shape[1] != channels:
        one = "; a single image x is the batch x[None]" if x.dim() == 3 else ""
        raise UserError(f"images must be of shape (B, {channels}, H, W), got {(*x.shape,)}{one}")
    if not x.is_floating_point():
        raise UserError(f"images must be floating-point and normalised, got {x.dtype}")
