"""Search spaces: the nodes of a cell, what each may read, and the places where an operation can stand.

A cell is a directed acyclic graph. Its states are numbered: first the cell's inputs, then its nodes in order. Node `j`
(counted from 0) may read each earlier state through each candidate operation. One such possibility, (node, source,
operation), is a *place*. Codes say which places are active; the super-net runs these and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations of the method: those of DARTS without `none`."""


class Place(NamedTuple):
    """Where an operation can stand: plain integers, known without asking a device."""

    node: int
    """The node that reads, counted from 0."""
    source: int
    """The state that is read: a cell input or an earlier node, in the numbering of states."""
    operation: int
    """Index into the space's primitives."""


@dataclass(frozen=True)
class Space:
    """A cell search space.

    Parameters
    ----------
    primitives : tuple of str
        Names of the candidate operations.
    nodes : int
        Intermediate nodes of a cell.
    inputs : int
        States that a cell is given.
    kinds : tuple of str
        Kinds of cell; all cells of a kind share one architecture.
    one_per_edge : bool
        Whether a node reads each earlier state through one operation at most.
    output : tuple of int
        The states that make up a cell's output; empty: all nodes.
    """

    primitives: tuple[str, ...] = PRIMITIVES
    nodes: int = 4
    inputs: int = 2
    kinds: tuple[str, ...] = ("normal", "reduction")
    one_per_edge: bool = False
    output: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.primitives)) != len(self.primitives) or not self.primitives:
            raise ValueError(f"primitives must be different names, at least one: {self.primitives}")
        if self.nodes < 1 or self.inputs < 1 or not self.kinds:
            raise ValueError(
                f"a space needs at least one node, one input and one kind of cell, got "
                f"nodes={self.nodes}, inputs={self.inputs}, kinds={self.kinds}"
            )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Space:
        """Build a space from what `dataclasses.asdict` and JSON made of one."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})

    def candidates(self, node: int) -> tuple[Place, ...]:
        """Return the places of `node`, by source and then by operation: the order of its vector z."""
        return tuple(
            Place(node, source, operation)
            for source in range(self.inputs + node)
            for operation in range(len(self.primitives))
        )

    def groups(self, node: int) -> tuple[int, ...] | None:
        """Return the group of each candidate of `node`, of which one may be active; None where all may be."""
        if not self.one_per_edge:
            return None
        return tuple(place.source for place in self.candidates(node))

    def most(self, node: int) -> int:
        """Return how many candidates of `node` can be active at most."""
        groups = self.groups(node)
        return len(self.candidates(node)) if groups is None else len(set(groups))

    def places(self) -> tuple[Place, ...]:
        """Return all places of a cell, node by node."""
        return tuple(place for node in range(self.nodes) for place in self.candidates(node))

    @property
    def concat(self) -> tuple[int, ...]:
        """The states that make up a cell's output."""
        return self.output or tuple(range(self.inputs, self.inputs + self.nodes))

    def label(self, place: Place) -> str:
        """Return the place in words, e.g. ``sep_conv_3x3<0``: the operation and the state that it reads."""
        return f"{self.primitives[place.operation]}<{place.source}"


DARTS_SPACE = Space()
"""The space of the method's experiments: normal and reduction cells of four nodes, seven operations."""
