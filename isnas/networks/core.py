"""The super-net's core: it runs the operations it is told to, and nothing else.

A cell holds an operation for each of its places. A *super-net* has all places of its space and is called with
coefficients, which name the active places and their values; a *discrete network* has a genotype's places only and is
called without. Both are of one class, so that a search step costs what a step of the found network costs, and that
folding is copying. The operations themselves, and the parts around the cells, are a network's own.

An operation may end in a *closing* norm, whose affine part takes the operation's coefficient c: ``gamma <- c gamma,
beta <- c beta``, which is ``c * operation(x)`` exactly. So a coefficient needs no pass over the output of its own and
saves no activation, and folding is the same product carried out for good. The products of many operations are taken
together (`scaled`): where a GPU waits for the next kernel, two for each would cost a layer.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..runtime.errors import UserError
from ..runtime.processes import processes, rank
from ..spaces.base import Place, Space

Affine = tuple[Tensor, Tensor]
"""The affine part of a norm, gamma and beta, shapes (features,)."""

Factor = Tensor | Affine | None
"""The factor of an operation's output. Without a closing norm it is a coefficient, a 0-d tensor; with one it is the
norm's affine part times the coefficient. None stands for no factor."""


def only_kind(space: Space) -> str:
    """Return the one kind of cell of a space whose cells have one input; raise a `UserError` where it has others."""
    if len(space.kinds) != 1 or space.inputs != 1:
        raise UserError(
            f"this network is made of one kind of cell with one input; the space has "
            f"{', '.join(space.kinds)} cells with {space.inputs} inputs"
        )
    return space.kinds[0]


@dataclass(frozen=True)
class Coefficients:
    """The active places of one kind of cell and their values: what a code gives to the super-net.

    Parameters
    ----------
    values : Tensor, shape (k,)
        The factor of each active place; differentiable.
    places : tuple of Place, length k
        The active places, different ones.
    """

    values: Tensor
    places: tuple[Place, ...]

    def __post_init__(self) -> None:
        if len(set(self.places)) != len(self.places) or self.values.shape != (len(self.places),):
            raise ValueError(
                f"coefficients need one value for each of different places, got values of shape "
                f"{tuple(self.values.shape)} for {len(self.places)} places"
            )


class Norm:
    """A norm that closes operations: a module that can be run with another affine part than its own.

    Attributes
    ----------
    weight, bias : nn.Parameter, shape (num_features,)
        Its affine part, gamma and beta.
    num_features : int
    """

    weight: nn.Parameter
    bias: nn.Parameter
    num_features: int


def scaled(norms: Sequence[Sequence[Norm]], coefficients: Tensor) -> list[list[Affine]]:
    """Return the affine parts of norms times coefficients, by a handful of operations however many there are.

    Parameters
    ----------
    norms : k norms for each of some cells, all of the same size
    coefficients : Tensor, shape (k,)

    Returns
    -------
    list of list of Affine
        For each cell and coefficient.
    """
    flat = [norm for row in norms for norm in row]
    parts = torch.stack([norm.weight for norm in flat] + [norm.bias for norm in flat])
    products = parts.view(2, len(norms), len(coefficients), -1) * coefficients[:, None]
    weights, biases = products.flatten(1, 2).unbind()
    k = len(coefficients)
    pairs = list(zip(weights.unbind(), biases.unbind(), strict=True))
    return [pairs[i : i + k] for i in range(0, len(pairs), k)]


class Closed(nn.Module):
    """A module that can end in a closing norm, which then takes its coefficient.

    Attributes
    ----------
    norm : Norm or None
    """

    norm: Norm | None

    @torch.no_grad()
    def absorb(self, coefficient: Tensor) -> None:
        """Multiply its output by a coefficient, 0-d, for good.

        Raises
        ------
        UserError
            When it has no closing norm.
        """
        if self.norm is None:
            raise UserError("an operation without a closing norm cannot absorb a coefficient")
        self.norm.weight.mul_(coefficient)
        self.norm.bias.mul_(coefficient)


def drop_path(operations: int, examples: int, rate: float, generator: torch.Generator) -> Tensor:
    """Draw what operations are multiplied by for each example: 0 with probability `rate`, else 1 / (1 - rate).

    All in one draw: a draw for each operation would be several kernels for each. Where several processes work together,
    it is for the examples of all, and each gets its own.

    Parameters
    ----------
    operations, examples : int
        The examples are those of this process.
    rate : float
        At least 0, below 1.
    generator : torch.Generator
        The factors are on its device.

    Returns
    -------
    Tensor, shape (operations, examples)
    """
    size = (operations, examples * processes())
    drawn = torch.rand(size, device=generator.device, generator=generator)
    own = drawn[:, examples * rank() : examples * (rank() + 1)]
    return (own >= rate) / (1.0 - rate)


class Term(NamedTuple):
    """An operation into a node."""

    key: str
    """Its name in the cell."""
    source: int
    """The state that it reads."""
    factor: Factor = None
    """The factor of its output."""
    drop_path_mask: Tensor | None = None
    """The factor of its output for each example of the batch, shape (B,), where drop path may silence it."""

    def silenced(self, out: Tensor) -> Tensor:
        """Return an output, (B, ...), of this operation times the mask of drop path, if there is one."""
        if self.drop_path_mask is None:
            return out
        return out * self.drop_path_mask.to(out.dtype).view(-1, *(1,) * (out.dim() - 1))


Incoming = list[list[Term]]
"""The terms that each node of a cell adds up."""


class CellNetwork(nn.Module, ABC):
    """A network of cells. Each cell is a module with `nodes`, a module that has the cell's `operations` by key.

    An operation is a module with `norm`, its closing norm or None, and `absorb`, see `Closed`.

    Parameters
    ----------
    space : Space
    places : mapping of kind to places
        The operations to build in every cell of a kind.
    concat : mapping of kind to states
        The states that make up the output of each kind of cell.
    options
        Further options that shape the network; a frozen dataclass with `closing_norm`.

    Attributes
    ----------
    kinds : tuple of str
        The kind of each cell, in order; set by the network.
    cells : nn.ModuleList
        The cells, likewise.
    """

    kinds: tuple[str, ...]
    cells: nn.ModuleList
    additive: ClassVar[bool] = True
    """Whether multiply-adds are a sum over places."""

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: Any,
    ) -> None:
        super().__init__()
        self.space = space
        self.places = {kind: tuple(sorted(places[kind])) for kind in space.kinds}
        self.concat = {kind: tuple(concat[kind]) for kind in space.kinds}
        self.options = options

    @abstractmethod
    def forward(
        self, x: Tensor, coefficients: Mapping[str, Coefficients] | None = None, **options: Any
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        x : Tensor
            A batch of the task's inputs.
        coefficients : mapping of kind to Coefficients, optional
            The active places and their factors. Without it all places that the network has run, with factor 1.
        **options
            The network's own, such as masks of dropout.
        """

    @abstractmethod
    def example(self, size: tuple[int, ...], device: torch.device | str) -> Tensor:
        """Return a batch of one sample of some size, without content."""

    @staticmethod
    @abstractmethod
    def units(x: Tensor) -> int:
        """Return how many units of the task a batch of inputs has."""

    def check_foldable(self) -> None:
        """Raise a `UserError` unless every operation can absorb a coefficient, see `isnas.networks.folding.fold`."""
        if self.options.closing_norm != "all":
            raise UserError(
                "fold needs a super-net whose operations all end in a norm "
                f'(closing_norm="all"), got closing_norm={self.options.closing_norm!r}'
            )

    def active(self, coefficients: Mapping[str, Coefficients] | None = None) -> int:
        """Return how many operations a pass with these coefficients runs, in all cells together."""
        places = self.places
        if coefficients is not None:
            places = {kind: part.places for kind, part in coefficients.items()}
        return sum(len(places[kind]) for kind in self.kinds)

    def incoming(
        self, coefficients: Mapping[str, Coefficients] | None, drop_path_mask: Tensor | None = None
    ) -> list[Incoming]:
        """Return what each node of every cell adds up."""
        found = self._incoming(coefficients)
        if drop_path_mask is None:
            return found
        rows = iter(drop_path_mask.unbind())
        return [
            [[term._replace(drop_path_mask=next(rows)) for term in node] for node in cell]
            for cell in found
        ]

    def _incoming(self, coefficients: Mapping[str, Coefficients] | None) -> list[Incoming]:
        if coefficients is None:
            of_kind = {kind: self._nodes(places) for kind, places in self.places.items()}
            return [of_kind[kind] for kind in self.kinds]
        found: list[Incoming] = [[] for _ in self.kinds]
        for kind in self.space.kinds:
            part = coefficients[kind]
            keys = [self.space.place_key(place) for place in part.places]
            groups: dict[tuple[int, ...], list[int]] = {}  # cells whose norms have the same sizes
            norms: dict[int, list[Norm | None]] = {}
            for i, (each, cell) in enumerate(zip(self.kinds, self.cells, strict=True)):
                if each == kind:
                    norms[i] = [cell.nodes.operations[key].norm for key in keys]
                    sizes = tuple(0 if norm is None else norm.num_features for norm in norms[i])
                    groups.setdefault(sizes, []).append(i)
            for sizes, cells in groups.items():
                rows = _factors(part.values, [norms[i] for i in cells], sizes)
                for i, factors in zip(cells, rows, strict=True):
                    found[i] = self._nodes(part.places, factors)
        return found

    def _nodes(self, places: Iterable[Place], factors: Iterable[Factor] | None = None) -> Incoming:
        nodes: Incoming = [[] for _ in range(self.space.nodes)]
        entries = ((place, None) for place in places)
        if factors is not None:
            entries = zip(places, factors, strict=True)
        for place, factor in sorted(entries, key=lambda entry: entry[0]):
            nodes[place.node].append(Term(self.space.place_key(place), place.source, factor))
        return nodes

    def discrete(self, places: Mapping[str, Iterable[Place]]) -> CellNetwork:
        """Return a network like this one that has these places only, without memory for its weights (on "meta")."""
        with torch.device("meta"):
            return type(self)(self.space, places, self.concat, self.options)

    def operations_at(self, kind: str, places: Iterable[Place]) -> list[nn.Module]:
        """Return the operations at these places in all cells of a kind."""
        keys = [self.space.place_key(place) for place in places]
        cells = [cell for k, cell in zip(self.kinds, self.cells, strict=True) if k == kind]
        return [cell.nodes.operations[key] for cell in cells for key in keys]


def _factors(
    values: Tensor, norms: Sequence[Sequence[Norm | None]], sizes: tuple[int, ...]
) -> list[list[Factor]]:
    """Return for each of some cells what its active operations are multiplied by.

    Parameters
    ----------
    values : Tensor, shape (k,)
        The coefficients.
    norms : k closing norms, or None, for each of the cells
    sizes : k sizes of these norms, the same in all the cells; 0 for None
    """
    factors: list[Factor] = list(values.unbind())
    closing: dict[int, list[int]] = {}  # places with a closing norm, by its size
    for k, size in enumerate(sizes):
        if size:
            closing.setdefault(size, []).append(k)
    found = [list(factors) for _ in norms]
    for closed in closing.values():
        of_closed = torch.stack([factors[k] for k in closed])
        rows = scaled([[row[k] for k in closed] for row in norms], of_closed)
        for of_cell, row in zip(found, rows, strict=True):
            for k, affine in zip(closed, row, strict=True):
                of_cell[k] = affine
    return found


def train_affine(modules: nn.Module | Iterable[nn.Module], trainable: bool) -> None:
    """Make the norms' affine parts in `modules` trainable, or fix them where they are."""
    roots = [modules] if isinstance(modules, nn.Module) else modules
    for module in itertools.chain.from_iterable(root.modules() for root in roots):
        if isinstance(module, Norm):
            module.requires_grad_(trainable)
