"""Cost of a training step, as far as it does not depend on the machine; and its precision."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import training_of
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import isnas
from isnas import DARTS_SPACE, METHODS
from isnas.networks.core import drop_path, train_affine
from isnas.networks.folding import extract, fold
from isnas.runs.loop import NoRun, Stage
from isnas.runs.training import Training
from isnas.runtime.devices import check_compiler
from isnas.runtime.errors import UserError
from isnas.runtime.memory import saved_bytes
from isnas.searches.base import SupernetSearch
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import create_search
from isnas.searches.two_stage import TwoStageSearch
from isnas.tasks.images import Dataset

STAGED = [name for name, method in METHODS.items() if issubclass(method.search, SupernetSearch)]
ALONE = "discrete network"
FROZEN = "ista-one-stage, frozen"
WHOLE = {"drop_path": 0.3, "auxiliary_weight": 0.4, "cutout": 2}


def build(
    name: str, dataset: Dataset, device: str = "cpu", cells: int = 3, **changes: Any
) -> Stage:
    """Return a stage that trains a tiny network, with all that a step can have."""
    options = {"channels": 4, "cells": cells, "batch_size": 8, **changes}
    if name == ALONE:
        genotype = build("ista-two-stage", dataset, device).genotype()
        return training_of(genotype, dataset, device, **options, **WHOLE, epochs=2)
    method = name.removesuffix(", frozen")
    if method == "ista-one-stage":
        options |= {**WHOLE, "search_epochs": 1, "epochs": 2}
    if method == "pc-darts":
        options |= {"warm_up": 0}
    stage = create_search(method, DARTS_SPACE, dataset, device, **options)
    if name == FROZEN:
        stage.end_epoch(NoRun())
        stage.epoch = 2
        assert not stage.searching
    return stage


ASKING = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
    torch.ops.aten.bincount,
}
"""Operations whose result, or its size, depends on values: on a GPU the program waits for them."""


class NothingAsked(TorchDispatchMode):
    """Fails when a value is asked for, but for Adam's counts of steps, which are never on the device."""

    def __init__(self, stage: Stage | None = None) -> None:
        super().__init__()
        parts = [] if stage is None else stage.stateful().values()
        self.counts = [
            state["step"]
            for part in parts
            if isinstance(part, torch.optim.Adam)
            for state in part.state.values()
        ]

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        by_mask = function.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        of_count = any(arguments[0] is count for count in self.counts) if arguments else False
        if (function.overloadpacket in ASKING and not of_count) or by_mask:
            raise AssertionError(f"a step asks for a value: {function}")
        return function(*arguments, **(options or {}))


class TestWaiting:
    def test_what_asks_is_found(self) -> None:
        x = torch.ones(3)
        asking: list[Callable[[], object]] = [
            lambda: x[0].item(),
            lambda: bool(x.sum() > 0),
            lambda: x[x > 0],
            lambda: x.nonzero(),
            lambda: torch.equal(x, x),
        ]
        for ask in asking:
            with NothingAsked(), pytest.raises(AssertionError, match="asks for a value"):
                ask()
        with NothingAsked():
            nn.utils.clip_grad_norm_([x.clone().requires_grad_()], 1.0)

    # what ENAS and GDAS draw from is on the CPU always, where their draws are read
    @pytest.mark.parametrize(
        "name", [*(name for name in STAGED if name not in ("enas", "gdas")), FROZEN, ALONE]
    )
    def test_no_step_asks_the_device_for_a_value(
        self, name: str, toy_data: Callable[..., Dataset]
    ) -> None:
        stage = build(name, toy_data())
        batches = stage.batches(stage.epoch, 0)
        stage.train_step(next(batches))
        stage.step += 1
        with NothingAsked(stage):
            stage.train_step(next(batches))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("name", [*STAGED, FROZEN, ALONE])
    def test_no_step_waits_for_a_cuda_device(
        self, name: str, toy_data: Callable[..., Dataset]
    ) -> None:
        data = dataclasses.replace(toy_data(), test_images=torch.zeros(1, 1, 8, 8))
        stage = build(
            name, dataclasses.replace(data, test_labels=torch.zeros(1)).to("cuda"), "cuda"
        )
        batches = stage.batches(stage.epoch, 0)
        stage.train_step(next(batches))
        stage.step += 1
        before = torch.cuda.get_sync_debug_mode()
        try:
            torch.cuda.set_sync_debug_mode("error")
            stage.train_step(next(batches))
        finally:
            torch.cuda.set_sync_debug_mode(before)


def two_stage(toy_data: Callable[..., Dataset], **changes: Any) -> TwoStageSearch:
    stage = build("ista-two-stage", toy_data(), **changes)
    assert isinstance(stage, TwoStageSearch)
    return stage


def alone(stage: TwoStageSearch) -> Training:
    """Return the training of the same architecture by itself, with the same batch norms."""
    network = extract(stage.network, stage.code.places)
    train_affine(network.cells, False)
    data = stage.train_feed
    dataset = Dataset("toy", data._images, data._labels, (), (), tuple("0123"), (0.5,), (0.3,))
    return training_of(network, dataset, batch_size=8)


class Kernels(TorchDispatchMode):
    """Counts the operations that work on data, of any size: on a GPU each is a kernel or more."""

    number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        self.number += not function.is_view
        return function(*arguments, **(options or {}))


def kernels_of(step: Callable[[], object]) -> int:
    step()  # the first makes the optimizer's state
    with Kernels() as counter:
        step()
    return counter.number


def operations_of(step: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class TestWeightsStep:
    """The weights' step of the search and the step of the network that it would find now."""

    def test_same_arithmetic(self, toy_data: Callable[..., Dataset]) -> None:
        stage = two_stage(toy_data)
        train, _ = next(stage.batches(0, 0))
        with torch.no_grad():
            coefficients = stage.code.coefficients()
        found = operations_of(lambda: stage.train_weights(train, coefficients))
        assert found == operations_of(lambda: alone(stage).train_step(train)) > 0

    def test_hardly_more_kernels(self, toy_data: Callable[..., Dataset]) -> None:
        """The codes and coefficients of all operations need a few together, not some for each."""
        stage = two_stage(toy_data, cells=8)
        train, _ = next(stage.batches(0, 0))

        def step() -> None:
            with torch.no_grad():
                coefficients = stage.code.coefficients()
            stage.train_weights(train, coefficients)

        single = alone(stage)
        assert kernels_of(step) <= 1.05 * kernels_of(lambda: single.train_step(train))

    def test_same_memory(self, toy_data: Callable[..., Dataset]) -> None:
        stage = two_stage(toy_data)
        (x, y), _ = next(stage.batches(0, 0))
        single = alone(stage)
        with torch.no_grad():
            coefficients = stage.code.coefficients()
        kept = [x, y, *stage.network.parameters(), *stage.network.buffers()]
        found = saved_bytes(lambda: stage.weights.loss((x, y), coefficients)[0], kept)
        kept = [x, y, *single.network.parameters(), *single.network.buffers()]
        assert found <= 1.02 * saved_bytes(lambda: single.weights.loss((x, y))[0], kept)

    def test_same_state_of_the_optimizer(self, toy_data: Callable[..., Dataset]) -> None:
        """The optimizer's state is that of the parameters that have been active, and nothing else."""
        stage = two_stage(toy_data)
        for batch in itertools.islice(stage.batches(0, 0), 2):
            stage.train_step(batch)
        trained = [p for p in alone(stage).network.parameters() if p.requires_grad]
        entries = stage.weights.optimizer.state.values()
        kept = sum(entry["momentum_buffer"].numel() for entry in entries)
        assert kept == sum(parameter.numel() for parameter in trained)

    def test_a_step_of_the_code_keeps_less(self, toy_data: Callable[..., Dataset]) -> None:
        """No weight needs anything, nor what comes before the first coefficient; all need gradients again after it."""
        stage = two_stage(toy_data)
        (x, y), valid = next(stage.batches(0, 0))
        trainable = [p for p in stage.network.parameters() if p.requires_grad]
        kept = [x, y, *valid, *stage.network.parameters(), *stage.network.buffers()]
        with torch.no_grad():
            coefficients = stage.code.coefficients()
        whole = saved_bytes(lambda: stage.weights.loss((x, y), coefficients)[0], kept)
        with stage.weights.fixed():
            found = saved_bytes(
                lambda: stage.weights.loss(valid, stage.code.coefficients())[0], kept
            )
        assert found < 0.95 * whole
        stage.train_code(valid)
        assert all(p.requires_grad and p.grad is None for p in trainable)

    def test_a_step_of_the_code_does_less(self, toy_data: Callable[..., Dataset]) -> None:
        """No gradient of a weight is computed."""
        stage = two_stage(toy_data)
        train, valid = next(stage.batches(0, 0))
        with torch.no_grad():
            coefficients = stage.code.coefficients()
        found = operations_of(lambda: stage.train_code(valid))
        assert found < 0.8 * operations_of(lambda: stage.train_weights(train, coefficients))

    def test_frozen_is_as_cheap_as_folded(self, toy_data: Callable[..., Dataset]) -> None:
        stage = build(FROZEN, toy_data())
        assert isinstance(stage, OneStageTraining)
        x, y = batch = next(stage.batches(2, 0))
        coefficients = stage.code.coefficients()
        folded = fold(stage.network, coefficients)
        options = {name: WHOLE[name] for name in ("drop_path", "auxiliary_weight")}
        folded_too = fold(stage.network, coefficients)
        single = training_of(folded_too, toy_data(), batch_size=8, epochs=2, **options)
        single.epoch = 1  # halfway, as the stage is
        most = 1.1 * kernels_of(lambda: single.train_step(batch))  # of three cells only
        assert kernels_of(lambda: stage.train_step(batch)) <= most

        def loss(network: nn.Module, *inputs: Any) -> Tensor:
            return nn.functional.cross_entropy(network(x, *inputs), y)

        assert operations_of(lambda: loss(stage.network, coefficients).backward()) == operations_of(
            lambda: loss(folded).backward()
        )
        kept = [x, y, *stage.network.parameters(), *stage.network.buffers()]
        found = saved_bytes(lambda: loss(stage.network, coefficients), kept)
        kept = [x, y, *folded.parameters(), *folded.buffers()]
        assert found <= 1.02 * saved_bytes(lambda: loss(folded), kept)


class TestPrecision:
    @pytest.mark.parametrize("name", [*STAGED, FROZEN, ALONE])
    def test_convolutions_only(self, name: str, toy_data: Callable[..., Dataset]) -> None:
        """Convolutions give bfloat16; what is kept and what is reported is float32."""
        stage = build(name, toy_data(), precision="bfloat16")
        seen: set[torch.dtype] = set()
        for module in stage.network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
        metrics = stage.train_step(next(stage.batches(stage.epoch, 0)))
        assert seen == {torch.bfloat16}
        assert all(value.dtype == torch.float32 for value in metrics.values())
        assert {t.dtype for t in stage.network.state_dict().values()} == {torch.float32}
        momenta = [e.get("momentum_buffer") for e in stage.weights.optimizer.state.values()]
        assert momenta and {m.dtype for m in momenta} == {torch.float32}

    @pytest.mark.parametrize("name", ["ista-one-stage", ALONE])
    def test_gradients_are_those_of_float32_within_its_rounding(
        self, name: str, toy_data: Callable[..., Dataset]
    ) -> None:
        found = []
        for precision in ("float32", "bfloat16"):
            stage = build(name, toy_data(), precision=precision)
            coefficients = None if name == ALONE else stage.code.coefficients()
            loss, _ = stage.weights.loss(next(stage.batches(0, 0)), coefficients)
            loss.backward()
            parameters = stage.weights.stateful()["network"].parameters()
            found.append([p.grad for p in parameters if p.grad is not None])
        flat, low = (torch.cat([gradient.flatten() for gradient in each]) for each in found)
        assert 0.9 < nn.functional.cosine_similarity(flat, low, dim=0) < 1

    def test_scores_of_a_trained_network_are_float32(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        """Outside of training, so also in tests, nothing is rounded."""
        stage = build(ALONE, toy_data(), precision="bfloat16")
        x, _ = next(stage.batches(0, 0))
        assert stage.network(x).dtype == torch.float32


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what torch.compile is to make; it runs as it is. Code that would not fit in one graph is an error."""
    counter = CompileCounter()
    compiling = functools.partial(torch.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiling)
    torch.compiler.reset()
    return counter


class TestCompiling:
    @pytest.mark.parametrize("name", [FROZEN, ALONE])
    def test_the_same_graph_for_all_of_training(
        self, name: str, toy_data: Callable[..., Dataset], graphs: CompileCounter
    ) -> None:
        """Drop path rises from epoch to epoch, and is no reason to compile again."""
        stage = build(name, toy_data(), compile=True)
        for epoch in range(stage.epoch, stage.epochs):
            stage.epoch = epoch
            for batch in itertools.islice(stage.batches(epoch, 0), 2):
                stage.train_step(batch)
        assert graphs.frame_count == 1

    @pytest.mark.parametrize("name", ["ista-one-stage", "ista-two-stage"])
    def test_not_while_searching(
        self, name: str, toy_data: Callable[..., Dataset], graphs: CompileCounter
    ) -> None:
        stage = build(name, toy_data(), compile=True)
        stage.train_step(next(stage.batches(0, 0)))
        assert graphs.frame_count == 0

    def test_what_a_search_has_found(self, tmp_path: Path, graphs: CompileCounter) -> None:
        isnas.search(
            out=tmp_path / "run",
            channels=2,
            cells=3,
            epochs=1,
            batch_size=700,
            evaluation_epochs=1,
            random_architectures=0,
            compile=True,
        )
        assert graphs.frame_count == 2, "the check that compiling works, and the network"

    def test_going_on_after_the_search(
        self, toy_data: Callable[..., Dataset], graphs: CompileCounter
    ) -> None:
        state = build(FROZEN, toy_data()).state_dict()
        stage = build("ista-one-stage", toy_data(), compile=True)
        stage.load_state_dict(state)
        stage.train_step(next(stage.batches(stage.epoch, 0)))
        assert graphs.frame_count == 1

    @pytest.mark.parametrize("name", [FROZEN, ALONE])
    def test_same_gradients(
        self, name: str, toy_data: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the graphs that are compiled; in float64, where a difference would not be rounding."""
        compiling = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
        monkeypatch.setattr(torch, "compile", compiling)
        torch.compiler.reset()
        found = []
        for compiled in (False, True):
            stage = build(name, toy_data(), compile=compiled)
            stage.network.double()
            x, y = next(stage.batches(stage.epoch, 0))
            x, coefficients = x.double(), None
            if name == FROZEN:
                coefficients = stage.code.double().coefficients()
            random = torch.Generator().manual_seed(0)
            mask = drop_path(stage.network.active(coefficients), len(x), 0.3, random).double()
            loss, _ = stage.weights.loss(
                (x, y), coefficients, auxiliary_weight=0.4, drop_path_mask=mask
            )
            loss.backward()
            found.append({n: p.grad for n, p in stage.network.named_parameters()})
        plain, compiled = found
        assert sum(gradient is not None for gradient in plain.values()) > 50
        for parameter, gradient in plain.items():
            torch.testing.assert_close(compiled[parameter], gradient, rtol=1e-9, atol=1e-12)

    def test_where_it_does_not_work_is_a_user_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: Any) -> Any:
            raise RuntimeError("\nNo working C++ compiler found\nin /usr/bin")

        compiling = functools.partial(torch.compile, backend=failing)
        monkeypatch.setattr(torch, "compile", compiling)
        torch.compiler.reset()
        with pytest.raises(UserError, match=r"^compile: torch.compile does not .* here: .*\Z"):
            check_compiler(torch.device("cpu"))
