"""The one registry of search spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..runtime.errors import UserError, short, suggestion
from ..runtime.forms import Either, Flag, List, Optional, Record, Text, Whole, check
from .base import Space
from .chain import ChainSpace
from .darts import DartsSpace
from .genotype import Genotype
from .macro import MacroSpace
from .nasbench201 import NASBench201Space
from .recurrent import RecurrentSpace

SPACES: dict[str, type[Space]] = {
    space.name: space
    for space in (DartsSpace, NASBench201Space, ChainSpace, MacroSpace, RecurrentSpace)
}
"""All spaces by name."""


# so few nodes and operations that all candidates are counted at once
_FORM = Record(
    known={
        "primitives": List(Text(longest=100), most=100),
        "nodes": Whole(1, 200),
        "inputs": Whole(1, 20),
        "kinds": List(Text(longest=100), least=1, most=20),
        "output": List(Whole(0, 1000), most=1000),
    },
    others=Optional(Either((Flag(), Whole(0, 1000), Text(longest=100)))),
)


def space_class(name: str) -> type[Space]:
    """Return the class of a space by its name.

    Raises
    ------
    UserError
        When there is none of that name.
    """
    if not isinstance(name, str) or name not in SPACES:
        raise UserError(
            f"no space is called {short(name)}{suggestion(name, SPACES)}; "
            f"there are {', '.join(SPACES)}"
        )
    return SPACES[name]


def get(name: str | Space, **parameters: Any) -> Space:
    """Return a space by its name, with values of the parameters that it has; a space itself as it is.

    Raises
    ------
    UserError
        When there is no such space or parameter, or a value is not one of it.
    """
    if isinstance(name, Space) and not parameters:
        return name
    space = space_class(name)
    for parameter in parameters:
        if parameter not in space.parameters:
            has = ", ".join(space.parameters) or "none"
            raise UserError(f"the space {name} has no parameter {parameter!r}; it has {has}")
    return space(**parameters)


def from_json(data: Any) -> Space:
    """Return the space that `Space.to_json` has written; also one of an earlier version, which had no name.

    Raises
    ------
    UserError
        When the data are not of that form.
    """
    check(data, _FORM, "space")
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    name = fields.pop("name", None)
    if name is None:  # an earlier version's
        name = "nasbench201" if fields.pop("one_per_edge", False) else "darts"
        fields.pop("one_per_edge", None)
    space = space_class(name)
    known = {field.name for field in dataclasses.fields(space)}
    if unknown := sorted(set(fields) - known):
        raise UserError(f"the space {name} has no field {unknown[0]!r:.60}")
    try:
        return space(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"the space {name} cannot be made: {error}") from None


def published(space: Space | None = None) -> Mapping[str, Genotype]:
    """Return the published architectures by name: of one space, or of all of them with the first of each name."""
    if space is not None:
        return space.published
    found: dict[str, Genotype] = {}
    for each in SPACES.values():
        for name, genotype in each().published.items():
            found.setdefault(name, genotype)
    return found


def space_reading(text: str) -> Space | None:
    """Return the first space that a text may be the form of a genotype of; None where it is of no such form."""
    found = (each.reading(text) for each in SPACES.values())
    return next((space for space in found if space is not None), None)
