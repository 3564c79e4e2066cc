"""Trainings on GPUs, as far as a machine without one can test them."""

from __future__ import annotations

import gc
import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.utils._python_dispatch import TorchDispatchMode

from clipzoo import heads
from clipzoo.conformance.running import Meter
from clipzoo.errors import RecipeError
from clipzoo.recipe import TrainingRecipe
from clipzoo.runs.before.preflight import pick_device
from clipzoo.tasks import _fcos
from clipzoo.training import Recognition, loop, precision, train
from clipzoo.training.balancing import Columns, Losses, _tapped, expert_dropping
from clipzoo.training.processes import exchange, launch, pairs
from clipzoo.training.updates import out_of_memory
from clipzoo.training.updates.step import Updater
from test_ranks import SIZE, Updates, batch
from test_training import job

# Devices ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_a_gpu_is_found_without_an_allocation_on_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("it would occupy the first GPU"))
    assert pick_device(device) == ("cuda" if device == "auto" else device)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_beyond_the_last_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no device 'cuda:2'; use auto or one of cpu, cuda:0, cuda:1"):
        pick_device("cuda:2")


def test_auto_asks_the_gpu_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first GPU has no bf16, the second one has."""
    current = [torch.device("cuda:0")]

    def using(device: torch.device) -> AbstractContextManager[None]:
        current[0] = device
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", using)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[0].index == 1)
    assert precision.chosen("auto", "cuda:1") == "bf16"
    assert precision.chosen("auto", "cuda:0") == "fp32"


def test_memory_is_measured_on_the_gpu_of_the_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("reset_peak_memory_stats", "memory_allocated", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: asked.append(device) or 0)
    with Meter(1, "cuda:1"):
        pass
    assert asked == ["cuda:1"] * 4


def test_a_term_without_a_graph_is_measured_on_the_device_of_the_maps() -> None:
    """The loss of a column without labels may be a constant. The device is that of tensors without values."""
    one = torch.ones(1, 2, 3, 3, device="meta", requires_grad=True)
    maps = [2 * one]
    found = _tapped.measure(maps, {"contrastive": maps[0].sum(), "constant": one.new_zeros(())}, "contrastive")
    assert {value.device.type for value in (*found.norms.values(), *found.cosines.values())} == {"meta"}


# Steps that do not wait for the GPU ------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Names of operations that let a GPU wait: sizes or values that depend on the data, and copies from the CPU."""

    WAITING = ("nonzero", "masked_select", "_local_scalar_dense", "lift_fresh", "_to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        if name in self.WAITING or any(torch.is_tensor(i) and i.dtype is torch.bool for i in indices):
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))


def test_boxes_pairs_and_pooling_do_not_copy_from_the_cpu() -> None:
    inputs = {name: torch.randn(6, 4) for name in ("image_features", "text_features")}
    inputs |= {"logit_scale": torch.tensor(1.0)}
    head, maps = heads.create("psp", [8], 5, width=16), [torch.randn(2, 8, 7, 7)]
    with Calls() as calls:
        around = _fcos.around(torch.ones(1, 4, 2, 3))
        pairs.loss(inputs, rows=3)
        head(maps)
    assert around[0, :, 0, 0].tolist() == [-3, -2, 3, 2]
    assert "lift_fresh" not in calls.waiting
    assert "_local_scalar_dense" not in calls.waiting


def test_expert_dropping_does_not_wait_for_the_largest_loss() -> None:
    scheme = expert_dropping.create(Columns(("a", "b", "c"), torch.ones(3)), p=1.0)
    losses = Losses(0, torch.tensor([1.0, 3.0, 2.0]), torch.ones(3, dtype=torch.bool))
    with Calls() as calls:
        factors = scheme.factors(losses)
    assert factors.tolist() == [0, 1, 0]
    assert "_local_scalar_dense" not in calls.waiting


# Checkpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, None])
def test_an_optimizer_keeps_its_kernels_with_a_checkpoint_of_another_device(
    tiny_clip: str, fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW is fused on GPUs; the scaler of float16 has given it the scale there, which other kernels refuse."""
    kind = torch.optim.AdamW

    def made(kernels: bool | None) -> Updates:
        monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **given: kind(groups, **{**given, "fused": kernels}))
        return Updates(tiny_clip, precision="fp16")

    there, here = made(None if fused else True), made(fused)
    there.updater.update(batch(there.student, slice(0, SIZE)), 0)
    here.sharding.load(here.adam, there.sharding.state(there.adam))
    here.updater.update(batch(here.student, slice(0, SIZE)), 1)
    assert {group["fused"] for group in here.adam.param_groups} == {fused}


def test_a_training_on_the_cpu_does_not_start_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have a GPU for itself: CUDA then fails when it is started."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: pytest.fail("it would start CUDA"))
    assert exchange.random_states(torch.device("cpu"))["cuda_rng"] == []


# Several processes -----------------------------------------------------------------------------------------


def test_processes_of_one_machine_meet_at_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full name of a machine may be one that it cannot resolve, such as ``….ip6.arpa``."""
    seen: list[Any] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    monkeypatch.setattr(launch, "elastic_launch", lambda config, command: seen.append(config) or (lambda *given: None))
    launch.launch(2, [])
    assert seen[0].local_addr == "localhost"


@pytest.mark.parametrize("other", [2, -6])
def test_a_process_that_was_killed_is_the_first_cause(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may end in the same second, because their connections break."""
    failures = {rank: ProcessFailure(rank, rank, code, "") for rank, code in ((0, other), (1, -9))}
    for one in failures.values():
        one.timestamp = 7

    def fail(*given: object) -> None:
        raise ChildFailedError("clipzoo", failures)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    monkeypatch.setattr(launch, "elastic_launch", lambda config, command: fail)
    assert launch.launch(2, []) == (137, "")


# Memory ----------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_fit_names_the_settings_that_need_less(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Updater, given: object, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")

    monkeypatch.setattr(Updater, "update", full)
    says = (
        r"step 0 does not fit in memory \(CUDA out of memory. Tried to allocate 2.00 GiB.\). A process computes 16 "
        r"images at a time: training.batch_size is 16, training.accumulate 1.*--set training.accumulate=2, or keep "
        r"fewer activations with --set training.activation_checkpointing=true, or lower training.batch_size"
    )
    with pytest.raises(RecipeError, match=says):
        train(job(dataset, labels, tiny_clip, tmp_path))


def test_settings_that_are_already_used_are_not_advised() -> None:
    settings = TrainingRecipe(steps=4, batch_size=12, accumulate=12, activation_checkpointing=True)
    says = r"computes 1 image at a time.*last checkpoint: lower training.batch_size"
    with pytest.raises(RecipeError, match=says), out_of_memory.explained(settings, 3):
        raise MemoryError
    with pytest.raises(RuntimeError, match="of another kind"), out_of_memory.explained(settings, 3):
        raise RuntimeError("of another kind")


@pytest.mark.parametrize("settings", [{"guard": {"every": 1, "max_loss": 1.0}}, {"ema": 0.9, "accumulate": 2}])
def test_a_training_leaves_nothing_on_the_device_for_the_next_one(
    dataset: Path,
    labels: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    """A cycle of objects would keep the optimizer until Python collects its garbage."""
    kept: list[weakref.ref[torch.optim.Optimizer]] = []

    def build(*given: Any) -> torch.optim.AdamW:
        made = optimizer_build(*given)
        kept.append(weakref.ref(made))
        return made

    optimizer_build = loop.optimizer.build
    monkeypatch.setattr(loop.optimizer, "build", build)
    made = job(dataset, labels, tiny_clip, tmp_path, steps=2, **settings)
    made = replace(made, recognition=Recognition("zero_shot/top1", 8, lambda student: 0.5))
    gc.collect()
    gc.disable()
    try:
        train(made)
        assert kept[0]() is None
    finally:
        gc.enable()
