"""The mean of weights is that of PyTorch's averaged SGD, and the trigger that of the paper."""

from __future__ import annotations

import copy

import torch
from torch import nn

from isnas.tasks.language import AveragedSGD, BestByValidation


def test_means_are_those_of_torch() -> None:
    torch.manual_seed(0)
    mine = nn.Linear(3, 2).double()
    other = copy.deepcopy(mine)
    options = {"lr": 0.1, "weight_decay": 0.01}
    averaged = AveragedSGD(mine.parameters(), **options)
    reference = torch.optim.ASGD(other.parameters(), t0=0, lambd=0.0, **options)
    for step in range(6):
        x = torch.randn(4, 3, dtype=torch.float64)
        if step == 1:  # PyTorch leaves out the first step
            averaged.start_averaging()
        for network, optimizer in ((mine, averaged), (other, reference)):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(mine.weight, other.weight)
    torch.testing.assert_close(
        averaged.state[mine.weight]["average"], reference.state[other.weight]["ax"]
    )
    before = mine.weight.detach().clone()
    with averaged.averages():
        torch.testing.assert_close(
            mine.weight.detach(), reference.state[other.weight]["ax"].detach()
        )
    assert torch.equal(mine.weight, before)


def test_means_survive_a_checkpoint() -> None:
    torch.manual_seed(0)
    one = nn.Linear(2, 1)
    optimizer = AveragedSGD(one.parameters(), lr=0.1)
    optimizer.start_averaging()

    def step(network: nn.Module, optimizer: AveragedSGD) -> None:
        optimizer.zero_grad()
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    step(one, optimizer)
    two = copy.deepcopy(one)
    again = AveragedSGD(two.parameters(), lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.averaging
    for network, each in ((one, optimizer), (two, again)):
        step(network, each)
        step(network, each)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(optimizer.state[a]["average"], again.state[b]["average"])


def test_the_trigger_is_not_monotone() -> None:
    """As in the authors' code: loss > min(losses[:-n]) once there are more than n."""
    losses = [5.0, 4.0, 4.5, 4.2, 3.9, 3.95, 4.1, 4.05]
    for patience in (1, 2, 3):
        network = nn.Linear(1, 1)
        optimizer = AveragedSGD(network.parameters(), lr=0.1)
        given = iter(losses)
        watch = BestByValidation(lambda _, given=given: next(given), patience)
        found = [
            bool(watch.after_epoch(network, optimizer, last=False)["averaging"]) for _ in losses
        ]
        first = next(
            i
            for i, loss in enumerate(losses)
            if i > patience and loss > min(losses[:i][:-patience])
        )
        assert found == [i >= first for i in range(len(losses))]


def test_the_best_weights_are_kept() -> None:
    network = nn.Linear(1, 1)
    optimizer = AveragedSGD(network.parameters(), lr=0.1)
    losses = iter([2.0, 1.0, 3.0])
    watch = BestByValidation(lambda _: next(losses), 0)
    weights = []
    for epoch in range(3):
        with torch.no_grad():
            network.weight.fill_(epoch)
        if epoch == 2:  # as after a resumption
            other = BestByValidation(watch.loss, 0)
            other.load_state_dict(watch.state_dict())
            watch = other
        watch.after_epoch(network, optimizer, last=epoch == 2)
        weights.append(float(network.weight.detach()))
    assert weights == [0.0, 1.0, 1.0]
