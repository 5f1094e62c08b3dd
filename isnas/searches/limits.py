"""Limits of what a search may find: how large its network may be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch

from ..codes.choices import Choices
from ..networks.counting import PlaceCosts
from ..networks.registry import family
from ..runtime.errors import UserError, suggestion
from ..runtime.options import BaseOptions
from ..spaces.genotype import Genotype
from .base import Setting

Quantity = Literal["parameters", "multiply-adds"]

DRAWS = 10_000
"""Architectures that are drawn at most to find one within the limits."""

_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


@dataclass(frozen=True)
class LimitOptions(BaseOptions):
    """Limits of what is found.

    Parameters
    ----------
    limit : tuple of str
        How large the network of what is found may be, in the size in which it is trained after the search (else in
        that of the search): parameters=3.7M, multiply-adds=600M (of convolutions and linear layers, for one sample),
        or both.
    """

    limit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds_of(self.limit)


def bounds_of(texts: tuple[str, ...]) -> dict[str, int]:
    """Return the largest allowed amount of each quantity that texts like ``parameters=3.7M`` name.

    Raises
    ------
    UserError
        When a text is not of that form or a quantity is named twice.

    Examples
    --------
    >>> bounds_of(("parameters=3.7M", "multiply-adds=600M"))
    {'parameters': 3700000, 'multiply-adds': 600000000}
    """
    found: dict[str, int] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        known = get_args(Quantity)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", amount)
        if name not in known or match is None:
            raise UserError(
                f"limit must be {' or '.join(f'{each}=AMOUNT' for each in known)}, such as "
                f"parameters=3.7M, with k, M, G or nothing behind the number; got {text!r}"
                f"{suggestion(name, known)}"
            )
        if name in found:
            raise UserError(f"limit: {name} is given twice")
        found[name] = round(float(match[1]) * _FACTORS[match[2]])
    return found


class Limits:
    """The limits of a search.

    Parameters
    ----------
    setting : Setting
        Its options have a part `limits`.

    Attributes
    ----------
    bounds : dict of str to int
        See `bounds_of`; empty where there are none.
    """

    def __init__(self, setting: Setting) -> None:
        self.bounds = bounds_of(setting.options.limits.limit)
        self.space = setting.space
        self._setting = setting
        self._costs: PlaceCosts | None = None

    def sizes(self, genotype: Genotype) -> dict[str, int]:
        """Return what an architecture has of each quantity."""
        if self._costs is None:
            setting, task = self._setting, self._setting.task
            shape = setting.options.network if setting.target is None else setting.target
            shape = replace(shape, **task.shape(setting.data))
            with torch.device("meta"):
                supernet = family(setting.space).build_supernet(setting.space, shape)
            self._costs = PlaceCosts(supernet, task.example(setting.data))
        places = genotype.places(self.space)
        return {
            "parameters": self._costs.parameters(places),
            "multiply-adds": self._costs.multiply_adds(places),
        }

    def allow(self, genotype: Genotype) -> bool:
        """Return whether an architecture keeps all limits."""
        if not self.bounds:
            return True
        sizes = self.sizes(genotype)
        return all(sizes[name] <= bound for name, bound in self.bounds.items())

    def in_words(self) -> str:
        """Return the limits as text."""
        return " and ".join(f"{name}={bound:,}" for name, bound in self.bounds.items())


class LimitedChoices(Choices):
    """Choices from which only architectures within limits are drawn: others are refused, and drawn again.

    So a random architecture is any of those within the limits, each equally likely, and a mutant any such neighbour.
    Decisions one by one (`allowed`, `genotype`) know no limits.

    Parameters
    ----------
    limits : Limits
    s
        See `Choices`.
    """

    drawn_most: ClassVar[int] = DRAWS

    def __init__(self, limits: Limits, s: Any) -> None:
        super().__init__(limits.space, s)
        self.limits = limits

    def random(self, random: torch.Generator) -> Genotype:
        """Draw an architecture within the limits, see `Choices.random`.

        Raises
        ------
        UserError
            When none is found.
        """
        for _ in range(self.drawn_most):
            found = super().random(random)
            if self.limits.allow(found):
                return found
        raise UserError(
            f"limit {self.limits.in_words()}: none of {self.drawn_most:,} random architectures of this depth and "
            f"width is that small"
        )

    def mutate(self, genotype: Genotype, random: torch.Generator) -> Genotype:
        """Return a neighbour within the limits, see `Choices.mutate`; a random architecture where none is found."""
        for _ in range(self.drawn_most // 100):
            found = super().mutate(genotype, random)
            if self.limits.allow(found):
                return found
        return self.random(random)

    def all(self) -> Iterator[Genotype]:
        """Yield every architecture within the limits once, lazily."""
        return filter(self.limits.allow, super().all())


def choices_within(setting: Setting, s: Any) -> Choices:
    """Return the choices of a search's space; with limits, where it has some."""
    if "limits" in setting.options.parts and (limits := Limits(setting)).bounds:
        return LimitedChoices(limits, s)
    return Choices(setting.space, s)
