"""How sparse codes learn beside the published way: by a probe of all candidates of a node, and by perturb and solve."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Coefficients, Dataset, Space, UserError
from isnas.runs.loop import drive
from isnas.searches.registry import create_search
from isnas.searches.two_stage import Probe, TwoStageSearch

SPACES = (DARTS_SPACE, NASBENCH201_SPACE)
CHANGES = {"channels": 2, "batch_size": 8, "epochs": 2, "seed": 5, "init_scale": 0.5}


def search_of(data: Dataset, gradient: str, space: Space, **changes: Any) -> TwoStageSearch:
    cells = {"cells": 1 if space is NASBENCH201_SPACE else 3}
    options = {"gradient": gradient, **CHANGES, **cells, **changes}
    search = create_search("ista-two-stage", space, data, **options)
    search.network.double()
    search.code.double()
    return search


def batch_of(n: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 8, 8, generator=random, dtype=torch.float64), torch.arange(n) % 4


def loss_of(search: TwoStageSearch, coefficients: dict[str, Coefficients]) -> Tensor:
    return search.weights.loss(batch_of(), coefficients)[0]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_probe_is_the_derivative_by_every_candidate(
    space: Space, toy_data: Callable[..., Dataset]
) -> None:
    """b of the node gets A g, with g by finite differences of the loss, centred; the loss is as without the probe."""
    search = search_of(toy_data(), "probe", space)
    search.network.train()
    index = len(search.code.choices) - 1
    choice, support = search.code.choices[index], search.code.support[index]
    with torch.no_grad():
        plain = search.code.coefficients()

        def loss_with(k: int, change: float) -> float:
            values, places = plain[choice.kind].values, plain[choice.kind].places
            place = choice.candidates[k]
            if place in places:
                values = values.clone()
                values[places.index(place)] += change
            else:
                values = torch.cat([values, values.new_tensor([change])])
                places = (*places, place)
            changed = {**plain, choice.kind: Coefficients(values, places)}
            return float(loss_of(search, changed))

        step = 1e-5
        g = torch.tensor(
            [
                (loss_with(k, step) - loss_with(k, -step)) / (2 * step)
                for k in range(len(choice.candidates))
            ],
            dtype=torch.float64,
        )
    probe = Probe(search.code, search.code.coefficients(), index)
    loss = loss_of(search, probe.coefficients)
    assert float(loss.detach()) == pytest.approx(float(loss_of(search, plain).detach()), rel=1e-12)
    loss.backward()
    probe.put_gradient()
    assert g.abs().max() > 1e-3 and len(support) < len(g)
    expected = search.code.A[index] @ (g - g.mean())
    torch.testing.assert_close(search.code.b[index].grad, expected, rtol=1e-5, atol=1e-7)


def straight_through(search: TwoStageSearch, supports: list[tuple[int, ...]]) -> list[Tensor]:
    """A g, with g the gradient at coefficients z_S that fit b on these supports."""
    code = search.code
    fits = [
        torch.linalg.lstsq(A[:, list(S)], b.detach()).solution
        for A, S, b in zip(code.A, supports, code.b, strict=True)
    ]
    values: dict[str, list[Tensor]] = {kind: [] for kind in code.space.kinds}
    places: dict[str, list[Any]] = {kind: [] for kind in code.space.kinds}
    leaves = [fit.clone().requires_grad_() for fit in fits]
    for choice, S, leaf in zip(code.choices, supports, leaves, strict=True):
        values[choice.kind].append(leaf)
        places[choice.kind] += [choice.candidates[k] for k in S]
    loss = loss_of(
        search,
        {kind: Coefficients(torch.cat(values[kind]), tuple(places[kind])) for kind in values},
    )
    gradients = torch.autograd.grad(loss, leaves)
    return [A[:, list(S)] @ g for A, S, g in zip(code.A, supports, gradients, strict=True)]


def best_supports(search: TwoStageSearch, codes: list[Tensor]) -> list[tuple[int, ...]]:
    """The supports of the best subsets, by trying all."""
    found = []
    for choice, A, b in zip(search.code.choices, search.code.A, codes, strict=True):
        subsets = (
            S
            for S in itertools.combinations(range(A.shape[1]), choice.s)
            if choice.groups is None or len({choice.groups[k] for k in S}) == choice.s
        )

        def misfit(S: tuple[int, ...], A: Tensor = A, b: Tensor = b) -> float:
            columns = A[:, list(S)]
            return float((columns @ torch.linalg.lstsq(columns, b).solution - b).norm())

        found.append(min(subsets, key=misfit))
    return found


def put_by_solving(search: TwoStageSearch) -> list[Tensor]:
    """Return the gradients that a step by solving gives the codes."""
    caught: list[Tensor] = []
    search._update_code = lambda: caught.extend(b.grad.clone() for b in search.code.b)
    search.solve_code(batch_of())
    return caught


@pytest.mark.parametrize("step", [1e-4, 3.0], ids=["no support changes", "supports change"])
def test_solving_compares_two_recoveries(step: float, toy_data: Callable[..., Dataset]) -> None:
    """A [z(b) - z(b - t A g)] / t with best subsets by trying all; for a small t that is A g itself."""
    search = search_of(toy_data(), "solve", NASBENCH201_SPACE, rule="best_subset", solve_step=step)
    search.network.train()
    code = search.code
    b = [each.detach().clone() for each in code.b]
    here = best_supports(search, b)
    gradients = straight_through(search, here)
    t = step / float(torch.cat(gradients).norm())
    moved = [x - t * g for x, g in zip(b, gradients, strict=True)]
    there = best_supports(search, moved)
    assert (here == there) == (step < 1)

    def fitted(A: Tensor, S: tuple[int, ...], x: Tensor) -> Tensor:
        columns = A[:, list(S)]
        return columns @ torch.linalg.lstsq(columns, x).solution

    found = put_by_solving(search)
    for i, gradient in enumerate(found):
        A = code.A[i]
        change = fitted(A, here[i], b[i]) - fitted(A, there[i], moved[i])
        torch.testing.assert_close(gradient, change / t, rtol=1e-6, atol=1e-9)
        if step < 1:
            torch.testing.assert_close(gradient, gradients[i], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gradient", ["probe", "solve"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_searches_learn_and_go_on_exactly(
    gradient: str, space: Space, toy_data: Callable[..., Dataset]
) -> None:
    data = toy_data(48)
    perturbation = 0.5 if gradient == "solve" else 0.0

    def begun() -> TwoStageSearch:
        options = {**CHANGES, "cells": 1 if space is NASBENCH201_SPACE else 3}
        more = {"gradient": gradient, "perturbation": perturbation}
        return create_search("ista-two-stage", space, data, **options, **more)

    whole = begun()
    before = [b.detach().clone() for b in whole.code.b]
    list(drive(whole))
    assert all((x != y).any() for x, y in zip(before, whole.code.b, strict=True))
    half = begun()
    next(drive(half))
    again = begun()
    again.load_state_dict(half.state_dict())
    list(drive(again))
    for x, y in zip(again.code.b, whole.code.b, strict=True):
        assert torch.equal(x, y)


def test_a_step_of_no_length_is_refused(toy_data: Callable[..., Dataset]) -> None:
    with pytest.raises(UserError, match="solve_step must be above 0"):
        search_of(toy_data(), "solve", NASBENCH201_SPACE, solve_step=0.0)
