"""Limits of what a search may find: parameters, multiply-adds and latency of its network.

How a search keeps them depends on what it is. Searches that draw architectures draw them within the limits. What the
weights of operations or masks stand for is brought within them by the cheapest exchanges (`Limits.nearest`). Sparse
codes refuse a recovery beyond the limits, and can be penalised for it (`isnas.searches.sparse_search`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch

from ..codes.choices import Choices
from ..networks.core import CellNetwork, Coefficients
from ..networks.counting import PlaceCosts
from ..networks.latency import LatencyTable
from ..networks.registry import family
from ..runs.training import to_device
from ..runtime.errors import UserError, check_one, short, suggestion
from ..runtime.options import BaseOptions
from ..runtime.processes import broadcast
from ..runtime.randomness import generator
from ..spaces.base import Place
from ..spaces.genotype import Genotype

if TYPE_CHECKING:
    from .base import Setting

Quantity = Literal["parameters", "multiply-adds", "latency"]

DRAWS = 10_000
"""Architectures that are drawn at most to find one within the limits."""

WHOLE = 6
"""Random networks that are measured whole for a table of latencies."""

_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class LimitOptions(BaseOptions):
    """Limits of what is found.

    Parameters
    ----------
    limit : tuple of str
        The largest network that may be found, in the size in which it is trained after the search (else in that of the
        search): parameters=3.7M, multiply-adds=600M (of convolutions and linear layers, for one sample), latency=5ms
        (of one sample, on the device of the run), or several of them.
    """

    limit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds_of(self.limit)


def bounds_of(texts: tuple[str, ...]) -> dict[str, float]:
    """Return the largest allowed amount of each quantity that texts like ``parameters=3.7M`` name.

    Latencies are in seconds.

    Raises
    ------
    UserError
        When a text is not of that form or a quantity is named twice.

    Examples
    --------
    >>> bounds_of(("parameters=3.7M", "latency=5ms"))
    {'parameters': 3700000, 'latency': 0.005}
    """
    found: dict[str, float] = {}
    for text in texts:
        check_one("limits", text)
        name, _, amount = text.partition("=")
        known = get_args(Quantity)
        factors = _SECONDS if name == "latency" else _FACTORS
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", amount)
        if name not in known or match is None or match[2] not in factors:
            raise UserError(
                f"limit must be {' or '.join(f'{each}=AMOUNT' for each in known)}, such as parameters=3.7M (k, M, G or "
                f"nothing behind the number) or latency=5ms (s, ms or us); got {text!r}{suggestion(name, known)}"
            )
        if name in found:
            raise UserError(f"limit: {name} is given twice")
        value = float(match[1]) * factors[match[2]]
        if not 0 < value < math.inf or (name != "latency" and round(value) == 0):
            raise UserError(f"limit: {name} must be above 0 and finite, got {short(amount)}")
        found[name] = value if name == "latency" else round(value)
    return found


class Limits:
    """The limits of a search.

    Parameters
    ----------
    setting : Setting
        Its options have a part `limits`.
    shape : optional
        The shape of the networks that are limited; by default that of the training after the search, else the search's.

    Attributes
    ----------
    bounds : dict of str to float
        See `bounds_of`; empty where there are none.
    """

    def __init__(self, setting: Setting, shape: Any = None) -> None:
        self.bounds = bounds_of(setting.options.limits.limit)
        self.space = setting.space
        self._setting = setting
        self.shape = shape

    @cached_property
    def _costs(self) -> PlaceCosts:
        with torch.device("meta"):
            supernet = self._supernet()
        return PlaceCosts(supernet, self._setting.task.example(self._setting.data))

    def _supernet(self, **seed: int) -> CellNetwork:
        setting, shape = self._setting, self.shape
        if shape is None:
            shape = setting.options.network if setting.target is None else setting.target
            shape = replace(shape, **setting.task.shape(setting.data))
        return family(setting.space).build_supernet(setting.space, shape, **seed)

    @cached_property
    def latencies(self) -> LatencyTable:
        """The measured costs of operations: those that the run has recorded, or measured now."""
        setting = self._setting
        if setting.latencies is not None:
            try:
                return LatencyTable.from_json(setting.latencies, self.space)
            except ValueError as error:  # from a file that somebody has changed
                raise UserError(f"latencies of the run: {error}") from None

        def measured() -> dict[str, Any]:
            seed = setting.options.runtime.seed
            supernet = to_device(
                self._supernet(seed=seed), setting.device, setting.options.runtime.layout
            )
            random = generator(seed, "latency")
            drawn = [Choices(self.space).random(random).places(self.space) for _ in range(WHOLE)]
            table = LatencyTable.measure(supernet, setting.task.example(setting.data), drawn)
            return table.to_json(self.space)

        return LatencyTable.from_json(broadcast(measured), self.space)

    def sizes(self, genotype: Genotype) -> dict[str, float]:
        """Return what an architecture has of each quantity; of latency only where it is limited."""
        places = genotype.places(self.space)
        found: dict[str, float] = {
            "parameters": self._costs.parameters(places),
            "multiply-adds": self._costs.multiply_adds(places),
        }
        if "latency" in self.bounds:
            found["latency"] = self.latencies.seconds(places)
        return found

    def excess(self, genotype: Genotype) -> float:
        """Return how far an architecture is beyond its limits: the sum of max(0, amount / bound - 1)."""
        if not self.bounds:
            return 0.0
        return self._beyond(self.sizes(genotype))

    def allow(self, genotype: Genotype) -> bool:
        """Return whether an architecture keeps all limits."""
        return self.excess(genotype) == 0

    def check_parameters(self, s: Sequence[int]) -> None:
        """Raise a `UserError` when even the smallest architecture with `s` places has too many parameters."""
        bound = self.bounds.get("parameters")
        if bound is not None and bound < (least := self._costs.least(s)):
            raise UserError(
                f"limit: parameters must be at least {least:,}, those of the smallest architecture of this depth and "
                f"width; got {bound:,}"
            )

    def share(self, kind: str, place: Place) -> float:
        """Return the share of the limits that an operation takes: the sum of its costs, each divided by its bound."""
        return sum(self._table(name)[kind][place] / bound for name, bound in self.bounds.items())

    def nearest(
        self,
        genotype: Genotype,
        coefficients: Mapping[str, Coefficients] | None = None,
        drop: bool = False,
    ) -> Genotype:
        """Return an architecture within the limits near to one that may be beyond them.

        As long as it is beyond, one place is exchanged for another of its choice, or dropped where its group may stay
        empty: of all exchanges that lessen the excess the one that costs the least value for it,

            min over exchanges p -> q of (c(p) - c(q)) / (excess before - excess after),

        of equals the one that lessens it most. Where costs add up, as they do but in the macro space, and one quantity
        is limited, it finds an architecture whenever there is one; with several limits it may miss one.

        Parameters
        ----------
        genotype : Genotype
        coefficients : mapping of kind to Coefficients, optional
            The value c that the search gives to each place; by default all are alike.
        drop : bool
            Whether a place may be dropped wherever the choice may have fewer.

        Raises
        ------
        UserError
            When no exchange lessens the excess any more.
        """
        if self.allow(genotype):
            return genotype
        places = {kind: list(own) for kind, own in genotype.places(self.space).items()}
        sizes = self.sizes(genotype)
        value = {
            kind: dict(zip(part.places, part.values.tolist(), strict=True))
            for kind, part in (coefficients or {}).items()
        }
        while (excess := self._beyond(sizes)) > 0:
            best: tuple[float, float] | None = None
            for kind, gone, come in self.space.exchanges(places, drop):
                after = self._exchanged(sizes, places, kind, gone, come)
                saved = excess - self._beyond(after)
                if saved <= 1e-12:
                    continue
                of_kind = value.get(kind, {})
                lost = of_kind.get(gone, 0.0) - of_kind.get(come, 0.0)
                if best is None or (lost / saved, -saved) < best:
                    best = lost / saved, -saved
                    change, chosen = (kind, gone, come), after
            if best is None:
                raise UserError(
                    f"limit {self.in_words()}: no architecture of this depth and width was found that is that small"
                )
            self._apply(places, *change)
            sizes = chosen
        return Genotype.from_places(places, self.space)

    @staticmethod
    def _apply(
        places: dict[str, list[Place]], kind: str, gone: Place, come: Place | None
    ) -> dict[str, list[Place]]:
        places[kind] = [p for p in places[kind] if p != gone] + ([] if come is None else [come])
        return places

    def _exchanged(
        self,
        sizes: dict[str, float],
        places: dict[str, list[Place]],
        kind: str,
        gone: Place,
        come: Place | None,
    ) -> dict[str, float]:
        """Return the sizes after an exchange."""
        if not self._costs.additive:
            changed = self._apply(dict(places), kind, gone, come)
            return self.sizes(Genotype.from_places(changed, self.space))
        found = {}
        for name in self.bounds:
            table = self._table(name)[kind]
            found[name] = sizes[name] - table[gone] + (0 if come is None else table[come])
        return found

    def _table(self, name: str) -> dict[str, dict[Place, Any]]:
        """Return the costs of all places in one quantity."""
        if name == "latency":
            return self.latencies.costs
        return self._costs.costs if name == "parameters" else self._costs.passes

    def _beyond(self, sizes: Mapping[str, float]) -> float:
        # sums of seconds are rounded
        return sum(max(0.0, sizes[name] / bound - 1 - 1e-12) for name, bound in self.bounds.items())

    def in_words(self) -> str:
        """Return the limits as text."""
        return " and ".join(
            f"{name}={1e3 * bound:g}ms" if name == "latency" else f"{name}={bound:,}"
            for name, bound in self.bounds.items()
        )


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


def choices_within(limits: Limits, s: Any) -> Choices:
    """Return the choices of a search's space; within its limits, where it has some."""
    return LimitedChoices(limits, s) if limits.bounds else Choices(limits.space, s)
