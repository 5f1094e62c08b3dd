"""Averages of weights over the steps, and the choice of the best ones by the validation text.

Averaged stochastic gradient descent with the non-monotone trigger (Merity, Keskar and Socher, "Regularizing and
optimizing LSTM language models", ICLR 2018, section 3): the weights follow plain SGD at a constant rate; once the
validation loss of an epoch is above the least one of all epochs but the last few, the mean of the weights over all
later steps is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedSGD(torch.optim.SGD):
    """SGD that can keep the mean of the weights after each step, from some step on.

    The means are those of `torch.optim.ASGD` with t0 = 0 and lambd = 0, which leaves out its first step.
    """

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, **options)
        for group in self.param_groups:
            group.setdefault("averaged", -1)  # steps in the mean; -1: there is none

    @property
    def averaging(self) -> bool:
        """Whether it keeps means."""
        return self.param_groups[0]["averaged"] >= 0

    def start_averaging(self) -> None:
        """Keep means from the next step on."""
        for group in self.param_groups:
            group["averaged"] = max(group["averaged"], 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step, and take its weights into the means."""
        found = super().step(closure)
        for group in self.param_groups:
            if group["averaged"] < 0:
                continue
            group["averaged"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                if "average" not in state:
                    state["average"] = parameter.detach().clone()
                state["average"].lerp_(parameter, 1 / group["averaged"])
        return found

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Let the weights be their means inside the block, where there are any."""
        before: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if "average" in self.state.get(parameter, {}):
                        before.append((parameter, parameter.detach().clone()))
                        parameter.copy_(self.state[parameter]["average"])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)


class BestByValidation:
    """Judges a network after every epoch, starts the averaging of its weights, and keeps the best ones.

    Parameters
    ----------
    loss : callable
        Returns a network's loss on the validation text.
    nonmonotone : int
        Averaging starts when a loss is above the least of all but the last `nonmonotone` ones before; 0: never.

    Attributes
    ----------
    losses : list of float
        After each epoch.
    best : dict of str to Tensor
        The state of the network with the least loss.
    """

    def __init__(self, loss: Callable[[nn.Module], float], nonmonotone: int) -> None:
        self.loss = loss
        self.nonmonotone = nonmonotone
        self.losses: list[float] = []
        self.best: dict[str, Tensor] = {}

    def after_epoch(
        self, network: nn.Module, optimizer: AveragedSGD, last: bool
    ) -> dict[str, float]:
        """Judge the network, and return its loss; after the last epoch give it the best weights.

        The weights that are judged are the means, once these are kept.
        """
        with optimizer.averages():
            loss = self.loss(network)
            if not self.losses or loss < min(self.losses):
                self.best = {
                    name: value.detach().clone() for name, value in network.state_dict().items()
                }
        earlier = self.losses[: -self.nonmonotone] if self.nonmonotone else []
        if earlier and loss > min(earlier):
            optimizer.start_averaging()
        self.losses.append(loss)
        if last and self.best:
            network.load_state_dict(self.best)
        return {"valid_loss": loss, "averaging": optimizer.averaging}

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors."""
        return {"losses": list(self.losses), "best": dict(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.losses = list(state["losses"])
        self.best = dict(state["best"])
