"""The smoothed search: fair paths, balanced matrices, and a step of the code by losses of perturbed architectures."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import solvers
from isnas import (
    DARTS_SPACE,
    NASBENCH201_SPACE,
    Coefficients,
    Dataset,
    Genotype,
    Space,
    UserError,
    build_supernet,
)
from isnas.codes.fair import fair_path
from isnas.codes.sparse import SparseCode, SparseCodeOptions
from isnas.runs.loop import drive as run_through
from isnas.runs.loop import loop
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import create_search
from isnas.searches.two_stage import TwoStageSearch
from isnas.spaces.base import Place
from isnas.tabular.nasbench201 import Table

SPACES = (DARTS_SPACE, NASBENCH201_SPACE)
TINY = {"channels": 2, "batch_size": 8, "epochs": 4, "seed": 5, "evaluation_epochs": 0}


def search_of(data: Dataset, space: Space = NASBENCH201_SPACE, **changes: Any) -> TwoStageSearch:
    cells = {"cells": 1 if space is NASBENCH201_SPACE else 3}
    options = {"preset": "smoothed", **TINY, **cells, **changes}
    return create_search("ista-two-stage", space, data, **options)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_fair_paths_train_all_alike(space: Space) -> None:
    """In whole turns every candidate has been there equally often, and every path is an architecture."""
    s = SparseCodeOptions().places(space)
    for i, (choice, number) in enumerate(zip(space.choices, s, strict=True)):
        turn = len(choice.candidates) // number
        seen: Counter[int] = Counter()
        for step in range(3 * turn):
            path = fair_path(space, s, 7, step)
            assert path == fair_path(space, s, 7, step)
            space.check(Genotype.from_places(path, space))
            mine = [k for k, place in enumerate(choice.candidates) if place in path[choice.kind]]
            assert len(mine) == number
            seen.update(mine)
        if len(choice.candidates) == turn * number:
            assert set(seen.values()) == {3}, i
        else:  # a turn leaves some out, drawn anew each time
            assert max(seen.values()) <= 3


@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_wide_fair_paths_are_fair(width: int) -> None:
    """In four steps every operation of every edge has been there as often as a path is wide."""
    there = min(width, 4)
    seen: Counter[Place] = Counter()
    for step in range(4, 8):
        path = fair_path(NASBENCH201_SPACE, (1, 2, 3), 7, step, width)["cell"]
        assert len(set(path)) == len(path) == 6 * there
        assert set(Counter((p.node, p.source) for p in path).values()) == {there}
        seen.update(path)
    assert set(seen) == set(NASBENCH201_SPACE.places()) and set(seen.values()) == {there}


def test_wide_paths_have_the_best_of_each_edge() -> None:
    """By brute force, where the code sees all differences: of every edge the two with the largest A'(b + e)."""
    options = SparseCodeOptions(matrix="balanced", m=(3, 6, 9), rule="non_negative", init_scale=1.0)
    code = SparseCode(NASBENCH201_SPACE, options, seed=2)
    shifts = torch.randn((20, 18), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = torch.cat([b.detach().double() for b in code.b])
    for shift, places in zip(shifts, code.places_at(shifts, 2), strict=True):
        expected = set()
        for b, A, choice in zip((flat + shift).split([3, 6, 9]), code.A, code.choices, strict=True):
            for members in choice.members:
                by_value = sorted(members, key=lambda k, A=A, b=b: -float(A[:, k] @ b))
                expected |= {choice.candidates[k] for k in by_value[:2]}
        assert set(places["cell"]) == expected


def test_a_frozen_node_stays_narrow() -> None:
    options = SparseCodeOptions(matrix="balanced", m=(3, 6, 9), rule="non_negative")
    code = SparseCode(NASBENCH201_SPACE, options)
    code.freeze(1)
    (places,) = code.places_at(torch.ones(1, 18, dtype=torch.float64), 2)
    nodes = Counter(place.node for place in places["cell"])
    assert sorted(nodes.values()) == [2, 2, 6]


def test_wide_paths_are_for_operations_that_exclude_each_other(
    toy_data: Callable[..., Dataset],
) -> None:
    with pytest.raises(UserError, match="path_width is for spaces in which the operations"):
        search_of(toy_data(64), DARTS_SPACE, path_width=2)
    with pytest.raises(UserError, match="gradient must be score, got 'coefficients'"):
        search_of(toy_data(64), path_width=2, gradient="coefficients")


def test_balanced_codes_compete() -> None:
    """The changes that a step makes to an edge's candidates sum to nothing: more of one is less of the others."""
    code = SparseCode(NASBENCH201_SPACE, SparseCodeOptions(matrix="balanced", m=(3, 6, 9)))
    for A, choice in zip(code.A, code.choices, strict=True):
        square = A @ A.T
        assert torch.allclose(square, square[0, 0] * torch.eye(len(A), dtype=A.dtype), atol=1e-12)
        for members in choice.members:
            assert A[:, members].sum(1).abs().max() < 1e-12
    with pytest.raises(UserError, match="at most 3 for a balanced matrix"):
        SparseCode(NASBENCH201_SPACE, SparseCodeOptions(matrix="balanced", m=(4, 6, 9)))


def test_recovery_takes_the_nearest_architecture() -> None:
    """With all differences of an edge seen, by brute force: the edge's candidate of largest A'b."""
    options = SparseCodeOptions(matrix="balanced", m=(3, 6, 9), rule="non_negative", init_scale=1.0)
    code = SparseCode(NASBENCH201_SPACE, options, seed=2)
    shifts = torch.randn((20, 18), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = [b.clone() for b in code.b]
    found = code.places_at(shifts)
    assert all(torch.equal(x, y) for x, y in zip(before, code.b, strict=True))
    flat = torch.cat([b.detach().double() for b in code.b])
    for shift, places in zip(shifts, found, strict=True):
        expected = []
        for b, A, choice in zip((flat + shift).split([3, 6, 9]), code.A, code.choices, strict=True):
            best = min(
                itertools.product(*choice.members),
                key=lambda S, A=A, b=b: _residual(A[:, list(S)], b),
            )
            expected += [choice.candidates[k] for k in sorted(best)]
        assert places["cell"] == tuple(expected)


def _residual(A: torch.Tensor, b: torch.Tensor) -> float:
    """The least ||A z - b|| over z >= 0."""
    every = solvers.best_subset(A, b, s=A.shape[1], non_negative=True)
    return float((A @ every.z - b).norm())


@pytest.mark.parametrize("width", [1, 2])
def test_a_step_of_the_code_is_the_formula(width: int, toy_data: Callable[..., Dataset]) -> None:
    """b moves by -rate * mean (L(b + e) - L(b - e)) e / (perturbation * rms), with losses taken one by one."""
    options = {"pairs": 3, "perturbation": 0.7, "code_weight_decay": 0.1, "path_width": width}
    search = search_of(toy_data(64), **options)
    search.epoch = 2
    images = next(iter(search.valid_feed.epoch(0)))
    with torch.no_grad():
        for b in search.code.b:
            b.copy_(torch.randn_like(b))
    before = torch.cat([b.detach().clone() for b in search.code.b])
    e = 0.7 * search._noise("score", 3)
    search.network.train()
    differences = []
    for shift in e:
        losses = []
        for places in search.code.places_at(torch.stack([shift, -shift]), width):
            with torch.no_grad():
                losses.append(float(search.weights.loss(images, search.ones_at(places))[0]))
        differences.append(losses[0] - losses[1])
    found = torch.tensor(differences, dtype=torch.float64)
    size = found.square().mean().sqrt()
    step = (found[:, None] * e).mean(0) / (0.7 * size)
    rate = search.options.method.code_learning_rate
    expected = before * (1 - 0.1 * rate) - rate * step.to(before)
    statistics = {name: value.clone() for name, value in search.network.named_buffers()}
    # the losses above have moved batch norm's statistics, which these passes do not depend on
    search.score_code(images)
    after = torch.cat([b.detach() for b in search.code.b])
    assert torch.allclose(after, expected, atol=1e-6)
    assert not torch.equal(after, before)
    for name, value in search.network.named_buffers():
        assert torch.equal(value, statistics[name]), "scoring leaves the statistics alone"


@pytest.mark.parametrize("width", [1, 2])
def test_two_steps_of_the_weights_are_a_pair(
    width: int, toy_data: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other pass; the second trains with -e where the first had e, and then b moves by the formula."""
    search = search_of(toy_data(64), score_losses="steps", path_width=width, perturbation=0.7)
    taken = []
    loss_of = search.weights.loss

    def loss(batch: Any, coefficients: dict[str, Coefficients]) -> tuple[torch.Tensor, dict]:
        assert batch is not None
        found = loss_of(batch, coefficients)
        places = {kind: each.places for kind, each in coefficients.items()}
        taken.append((float(found[0].detach()), search.shift, places))
        return found

    monkeypatch.setattr(search.weights, "loss", loss)
    search.epoch = search.warm_up_epochs
    rate, spread = search.options.method.code_learning_rate, []
    for step, batch in enumerate(search.batches(search.epoch, 0)):
        search.step = step
        before = torch.cat([b.detach().clone() for b in search.code.b])
        search.train_step(batch)
        after = torch.cat([b.detach() for b in search.code.b])
        assert len(taken) == step + 1, "one pass a step"
        second, shift, places = taken[-1]
        if step % 2 == 0:
            assert torch.equal(after, before)
            (expected,) = search.code.places_at(shift, width)
            assert places == expected
            continue
        first, e, _ = taken[-2]
        assert torch.equal(shift, -e)
        spread.append((first - second) ** 2)
        size = (sum(spread) / len(spread)) ** 0.5
        move = (first - second) * e[0] / (0.7 * size)
        assert torch.allclose(after, before - rate * move.to(before), atol=1e-6)
    assert len(taken) == 4 and not torch.equal(taken[0][1], taken[2][1])


def test_both_steps_of_a_pair_are_on_fair_paths_or_none(toy_data: Callable[..., Dataset]) -> None:
    options = {"warm_up_share": 0.0, "fair_share": 0.5}
    search = search_of(toy_data(64), score_losses="steps", **options)
    fair = []
    for step in range(40):
        search.epoch, search.step = divmod(step, search.steps)
        search.path()
        fair.append(search.shift is None)
    assert fair[::2] == fair[1::2] and len(set(fair)) == 2


def test_a_pair_is_of_one_batch(toy_data: Callable[..., Dataset]) -> None:
    """From wherever the epoch goes on; the last step of an odd number is by itself. On fair paths batches change."""
    search = search_of(toy_data(80), score_losses="steps", warm_up_share=0.5)
    assert (search.steps, search.warm_up_epochs) == (5, 2)
    images = [x for (x, _), _ in search.batches(2, 0)]
    same = [torch.equal(x, y) for x, y in itertools.pairwise(images)]
    assert same == [True, False, True, False]
    for start in range(5):
        rest = [x for (x, _), _ in search.batches(2, start)]
        assert len(rest) == 5 - start
        assert all(torch.equal(x, y) for x, y in zip(rest, images[start:], strict=True))
    before = [x for (x, _), _ in search.batches(1, 0)]
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(before, 2))


def test_a_pair_needs_two_steps(toy_data: Callable[..., Dataset]) -> None:
    with pytest.raises(
        UserError, match="two steps of an epoch; these data make one, of batch_size 8"
    ):
        search_of(toy_data(24), score_losses="steps")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": "coefficients"}, "score_losses steps is for the gradient score"),
        ({"pairs": 2}, "pairs must be 1 where score_losses is steps, got 2"),
        ({"code_batch_size": 4}, "code_batch_size is of passes .* got 4"),
    ],
)
def test_steps_have_no_passes_to_set(
    changes: dict[str, Any], message: str, toy_data: Callable[..., Dataset]
) -> None:
    with pytest.raises(UserError, match=message):
        search_of(toy_data(64), score_losses="steps", **changes)


@pytest.mark.slow
def test_with_exact_losses_it_finds_a_best_cell(
    toy_data: Callable[..., Dataset], nasbench201: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the accuracy of networks trained by themselves for 12 epochs in place of the super-net's loss.

    What a search with a super-net does not find is the super-net's fault, then.
    """

    def loss(batch: Any, coefficients: dict[str, Coefficients]) -> tuple[torch.Tensor, dict]:
        places = {kind: each.places for kind, each in coefficients.items()}
        cell = Genotype.from_places(places, NASBENCH201_SPACE)
        return torch.tensor(-nasbench201.accuracy(cell, "cifar10", "val_12")), {}

    search = search_of(toy_data())
    monkeypatch.setattr(search.weights, "loss", loss)
    for search.step in range(1200):
        search.score_code(None)
    search.recover()
    assert nasbench201.rank(search.genotype(), "cifar10") <= 3


def test_codes_rest_while_weights_warm_up(toy_data: Callable[..., Dataset]) -> None:
    search = search_of(toy_data(64), warm_up_share=0.5)
    assert search.warm_up_epochs == 2
    zero = [torch.zeros_like(b) for b in search.code.b]
    for epoch, _ in enumerate(run_through(search)):
        still = all(torch.equal(b, z) for b, z in zip(search.code.b, zero, strict=True))
        assert still == (epoch < 2)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 0), (3, 2)])
def test_a_warm_up_leaves_an_epoch_to_the_codes(
    epochs: int, expected: int, toy_data: Callable[..., Dataset]
) -> None:
    search = search_of(toy_data(64), warm_up_share=0.9, epochs=epochs)
    assert search.warm_up_epochs == expected
    list(run_through(search))
    assert any(b.any() for b in search.code.b)


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (DARTS_SPACE, {}),
        (NASBENCH201_SPACE, {}),
        (NASBENCH201_SPACE, {"path_width": 2}),
        (NASBENCH201_SPACE, {"score_losses": "steps"}),
    ],
)
def test_it_goes_on_exactly(
    space: Space, changes: dict[str, Any], toy_data: Callable[..., Dataset]
) -> None:
    """Also between the two steps of a pair."""
    data = toy_data(48)
    whole = search_of(data, space, **changes)
    list(run_through(whole))
    begun = search_of(data, space, **changes)
    assert begun.steps == 3
    for _ in loop(begun):
        if (begun.epoch, begun.step) == (3, 1):
            break
    again = search_of(data, space, **changes)
    again.load_state_dict(begun.state_dict())
    list(run_through(again))
    assert again.genotype() == whole.genotype()
    for x, y in zip(again.code.b, whole.code.b, strict=True):
        assert torch.equal(x, y)
    for x, y in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(x, y)


def test_where_no_gradient_can_be(toy_data: Callable[..., Dataset]) -> None:
    """A coefficient that only norms read changes nothing; scores of whole architectures see its place all the same."""
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|{}~2|"
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    network = build_supernet(NASBENCH201_SPACE, channels=4, cells=1, closing_norm="none").double()
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-14  # of batch norm; 1e-5 leaves a trace of the scale
    places = tuple(Genotype.parse(cell.format("nor_conv_1x1")).places()["cell"])
    c = torch.full((len(places),), 0.7, dtype=torch.float64, requires_grad=True)
    network(images, {"cell": Coefficients(c, places)})[:, 0].square().sum().backward()
    first, *others = c.grad
    assert (
        abs(first) < 1e-12
    )  # node 0 reads one edge, and 1x1 and 3x3 convolutions with norms read node 0
    assert min(map(abs, others)) > 1e-6

    stage = search_of(toy_data(), warm_up_share=0.0)
    assert not stage.code.b[0].any()
    stage.train_step(next(iter(stage.batches(0, 0))))
    assert stage.code.b[0].all()  # node 0 has learnt


# --- in one stage


def one_stage(data: Dataset, space: Space = DARTS_SPACE, **changes: Any) -> OneStageTraining:
    cells = {"cells": 1 if space is NASBENCH201_SPACE else 3}
    options = {"preset": "smoothed", **TINY, **cells, "search_epochs": 3, "epochs": 1, **changes}
    return create_search("ista-one-stage", space, data, **options)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_one_stage_ends_with_the_network_of_what_it_found(
    space: Space, toy_data: Callable[..., Dataset]
) -> None:
    """Codes rest during the warm-up, and learn; at the end all coefficients are 1 and folding changes nothing."""
    stage = one_stage(toy_data(48), space)
    assert stage.warm_up_epochs == 1
    b = [each.detach().clone() for each in stage.code.b]
    moved = []
    for _ in run_through(stage):
        moved.append(any((x != y).any() for x, y in zip(b, stage.code.b, strict=True)))
    assert moved == [False, True, True, True]
    assert all(stage.code.frozen) and stage.searched == 3
    for coefficients in stage.code.coefficients().values():
        assert torch.equal(coefficients.values, torch.ones_like(coefficients.values))
    assert stage.folding_error() < 1e-5
    space.check(stage.genotype())


@pytest.mark.parametrize("losses", ["passes", "steps"])
def test_one_stage_goes_on_exactly(losses: str, toy_data: Callable[..., Dataset]) -> None:
    data = toy_data(48)
    whole = one_stage(data, score_losses=losses)
    list(run_through(whole))
    assert any(b.any() for b in whole.code.b)
    begun = one_stage(data, score_losses=losses)
    for _ in loop(begun):
        if (begun.epoch, begun.step) == (2, 1):
            break
    again = one_stage(data, score_losses=losses)
    again.load_state_dict(begun.state_dict())
    list(run_through(again))
    assert again.genotype() == whole.genotype()
    for x, y in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(x, y)


def test_frozen_nodes_stay_as_they_are() -> None:
    """Whatever is added to their codes, and with coefficients of the value that is given."""
    code = SparseCode(NASBENCH201_SPACE, SparseCodeOptions(rule="non_negative", matrix="balanced"))
    code.freeze(1, 1.0)
    kept = {code.choices[1].candidates[k] for k in code.support[1]}
    size = sum(len(b) for b in code.b)
    shifts = 10 * torch.randn(20, size, generator=torch.Generator().manual_seed(0)).double()
    found = code.places_at(shifts)
    mine = set(code.choices[1].candidates)
    assert all(mine & set(places["cell"]) == kept for places in found)
    assert len({places["cell"] for places in found}) > 10
