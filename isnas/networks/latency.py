"""Latency of networks on the device at hand: measured whole, or summed from a table of measured operations.

Protocol: evaluation mode, no gradients, one sample of the task's size, `WARM_UP` runs that do not count, then the
median of `REPEATS`; on CUDA every run is waited for. Seconds are those of the present number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..spaces.base import Place, Space
from .core import CellNetwork
from .folding import extract

WARM_UP = 5
"""Runs before those that count."""

REPEATS = 25
"""Runs whose median counts."""

Clock = Callable[[], float]


def median_seconds(
    run: Callable[[], Any], device: torch.device | str, clock: Clock = time.perf_counter
) -> float:
    """Return the median duration of a call, in seconds, by the protocol above."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    found = []
    with torch.no_grad():
        for _ in range(WARM_UP):
            run()
        for _ in range(REPEATS):
            wait()
            begun = clock()
            run()
            wait()
            found.append(clock() - begun)
    return median(found)


def network_seconds(
    network: CellNetwork, size: tuple[int, ...], clock: Clock = time.perf_counter
) -> float:
    """Return the latency of a network, in seconds, on the device where it is.

    Parameters
    ----------
    network : CellNetwork
        Its mode is left as it is.
    size : tuple of int
        See `isnas.networks.counting.count_multiply_adds`.
    clock : callable
        Returns the present second.
    """
    training, device = network.training, next(network.parameters()).device
    x = network.example(size, device).zero_()
    network.eval()
    try:
        return median_seconds(lambda: network(x), device, clock)
    finally:
        network.train(training)


@dataclass(frozen=True)
class LatencyTable:
    """Measured costs of the operations of a super-net, whose sum predicts the latency of a network.

    Parameters
    ----------
    rest : float
        Seconds of what all networks have in common.
    costs : dict of kind to dict of Place to float
        Seconds of the operations at a place, in all cells of the kind.
    error : float
        The largest relative error of the sum among the whole networks that were measured.
    """

    rest: float
    costs: dict[str, dict[Place, float]]
    error: float

    def seconds(self, places: Mapping[str, Iterable[Place]]) -> float:
        """Return the predicted latency of the network that has these places."""
        return self.rest + sum(self.costs[kind][p] for kind in places for p in places[kind])

    def to_json(self, space: Space) -> dict[str, Any]:
        """Return plain data for JSON."""
        costs = {
            kind: {space.place_key(place): cost for place, cost in of_kind.items()}
            for kind, of_kind in self.costs.items()
        }
        return {"rest": self.rest, "costs": costs, "error": self.error}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], space: Space) -> LatencyTable:
        """Return the table that `to_json` returned.

        Raises
        ------
        ValueError
            When it is not of this space.
        """
        try:
            keys = {space.place_key(place): place for place in space.places()}
            costs = {
                kind: {keys[key]: float(cost) for key, cost in data["costs"][kind].items()}
                for kind in space.kinds
            }
            return cls(float(data["rest"]), costs, float(data["error"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no table of latencies of the space {space.name}") from error

    @classmethod
    def measure(
        cls,
        supernet: CellNetwork,
        size: tuple[int, ...],
        samples: Sequence[Mapping[str, Iterable[Place]]],
        clock: Clock = time.perf_counter,
    ) -> LatencyTable:
        """Measure every operation of a super-net by itself, with the inputs that it has there.

        What the networks have in common is the median of what some whole networks take beyond the sum of their
        operations; how far the prediction is off for any of these is the table's error.

        Parameters
        ----------
        supernet : CellNetwork
            On the device; its mode is left as it is.
        size : tuple of int
            See `network_seconds`.
        samples : sequence of mapping of kind to places
            The whole networks.
        clock : callable
            Returns the present second.
        """
        device = next(supernet.parameters()).device
        training = supernet.training
        supernet.eval()
        try:
            calls = _calls(supernet, supernet.example(size, device).zero_())
            costs = {
                kind: {
                    place: sum(
                        (
                            number
                            * median_seconds(lambda o=o, i=inputs: o(*i[0], **i[1]), device, clock)
                            for o in supernet.operations_at(kind, [place])
                            if o in calls
                            for inputs, number in [calls[o]]
                        ),
                        start=0.0,
                    )
                    for place in supernet.places[kind]
                }
                for kind in supernet.space.kinds
            }
            sums = [sum(costs[kind][p] for kind in each for p in each[kind]) for each in samples]
            whole = [network_seconds(extract(supernet, each), size, clock) for each in samples]
        finally:
            supernet.train(training)
        rest = max(0.0, median(w - s for w, s in zip(whole, sums, strict=True)))
        error = max(abs(rest + s - w) / w for w, s in zip(whole, sums, strict=True))
        return cls(rest, costs, error)


def _calls(supernet: CellNetwork, x: torch.Tensor) -> dict[torch.nn.Module, tuple[Any, int]]:
    """Return the last inputs of each operation in a pass, and how often it is called."""
    calls: dict[torch.nn.Module, tuple[Any, int]] = {}

    def note(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        calls[module] = ((args, kwargs), calls.get(module, (None, 0))[1] + 1)

    hooks = [
        operation.register_forward_pre_hook(note, with_kwargs=True)
        for kind in supernet.space.kinds
        for operation in supernet.operations_at(kind, supernet.places[kind])
    ]
    try:
        with torch.no_grad():
            supernet(x)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
