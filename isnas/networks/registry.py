"""The one registry of networks: which family of networks goes with a space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..runtime.errors import UserError, suggestion
from ..runtime.options import BaseOptions
from ..runtime.randomness import seeded
from ..spaces import get as get_space
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from .chain import ChainNetwork, ChainOptions
from .core import CellNetwork
from .darts import Network, NetworkOptions
from .macro import MacroNetwork, MacroOptions
from .nasbench201 import NASBench201Network, NASBench201Options
from .recurrent import RecurrentNetwork, RecurrentOptions


@dataclass(frozen=True)
class Family:
    """Networks of one kind, searched or found.

    Parameters
    ----------
    network : type of CellNetwork
    options : type of BaseOptions
        Their shape.
    quick : mapping of str to values
        A shape that trains in minutes on two cores, for the default of commands.
    roles : mapping of str to mapping
        Options that a super-net must have for a role: ``search``, to find an architecture; ``fold``, to be folded.
    """

    network: type[CellNetwork]
    options: type[BaseOptions]
    quick: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"search": {}, "fold": {}}
    )

    def build_supernet(self, space: Space, shape: Any, *, seed: int = 0) -> CellNetwork:
        """Return the super-net: every place of the space in every cell, initial weights drawn from `seed`."""
        places = {kind: space.places() for kind in space.kinds}
        with seeded(seed, "weights"):
            return self.network(space, places, dict.fromkeys(space.kinds, space.concat), shape)

    def build_network(self, genotype: Genotype, shape: Any, *, seed: int = 0) -> CellNetwork:
        """Return the discrete network of a genotype, its initial weights drawn from `seed`."""
        concat = {kind: cell.concat for kind, cell in genotype.cells}
        with seeded(seed, "weights"):
            return self.network(genotype.space, genotype.places(), concat, shape)


def reshaped(shape: Any, **changes: Any) -> Any:
    """Return the shape of a network with changes of what is not the user's.

    Raises
    ------
    UserError
        When the networks of this family have no such thing.
    """
    known = {each.name for each in fields(shape)}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"the networks of this space have no {name} ({name} = {value!r})")
    return replace(shape, **changes)


CLOSED = {"search": {"closing_norm": "pooling"}, "fold": {"closing_norm": "all"}}
"""The roles of networks of images, see `isnas.networks.operations.ClosingNorm`."""

FAMILIES: dict[str, Family] = {
    "darts": Family(Network, NetworkOptions, {"channels": 8, "cells": 4}, CLOSED),
    "macro": Family(
        MacroNetwork,
        MacroOptions,
        {"channels": 8},
        {
            "search": {"form": "sum", "closing_norm": "none"},
            "fold": {"form": "concatenation", "closing_norm": "all"},
        },
    ),
    "nasbench201": Family(
        NASBench201Network, NASBench201Options, {"channels": 8, "cells": 1}, CLOSED
    ),
    "chain": Family(ChainNetwork, ChainOptions, {"channels": 8, "features": 128}, CLOSED),
    "recurrent": Family(
        RecurrentNetwork,
        RecurrentOptions,
        {
            "width": 64,
            "dropout": 0.2,
            "dropout_words": 0.0,
            "dropout_embedding": 0.1,
            "dropout_input": 0.2,
            "dropout_hidden": 0.1,
        },
        {"search": {"closing_norm": "all"}, "fold": {"closing_norm": "all"}},
    ),
}
"""All families by the names that spaces give."""


def family(space: Space) -> Family:
    """Return the networks that are made of a space."""
    return FAMILIES[space.network]


def build_supernet(space: str | Space, *, seed: int = 0, **shape: Any) -> CellNetwork:
    """Return a super-net: every place of the space in every cell, initial weights drawn from `seed`.

    Parameters
    ----------
    space : Space or str
        A space, or its name.
    seed : int
    **shape
        The options of the space's networks.

    Raises
    ------
    UserError
        When a value is out of its range, or there is no such space or option.
    """
    space = get_space(space)
    kind = family(space)
    return kind.build_supernet(space, _shape(kind, shape), seed=seed)


def build_network(genotype: Genotype | str | Path, *, seed: int = 0, **shape: Any) -> CellNetwork:
    """Return the discrete network of a genotype, its initial weights drawn from `seed`.

    Parameters
    ----------
    genotype : Genotype, str or path
        An architecture, the name of a published one, or a file with one.
    seed : int
    **shape
        The options of the space's networks; the defaults are those of its published evaluation network.

    Raises
    ------
    UserError
        When a value is out of its range, or there is no such genotype or option.

    Examples
    --------
    >>> network = build_network(GENOTYPES["ISTA_twostage"])
    >>> sum(p.numel() for p in network.parameters())
    3316726
    """
    genotype = Genotype.meant(genotype)
    kind = family(genotype.space)
    return kind.build_network(genotype, _shape(kind, shape), seed=seed)


def _shape(kind: Family, values: Mapping[str, Any]) -> Any:
    names = [field.name for field in fields(kind.options)]
    for name in values:
        if name not in names:
            raise UserError(
                f"there is no option {name}{suggestion(name, names)}; there are {', '.join(names)}"
            )
    return kind.options(**values)
