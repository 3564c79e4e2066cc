"""The arms of `training.py`: trainings and loaders, each in processes of its own, which wait while others are timed."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import torch
from PIL import Image

from clipzoo import model_schemes
from clipzoo.data import Batch, LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.experts import ExpertCard
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import fingerprint, open_dataset, shard_fingerprint
from clipzoo.readers.webdataset import write_shard
from clipzoo.recipe import TrainingRecipe
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.training import Job, joined
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import Sharding
from clipzoo.training.updates import optimizer
from clipzoo.training.updates.step import Updater
from training_cost import CLASSES, CONVENTIONS
from training_cost import batch as labeled_batch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PICTURE = (240, 320)
"""Size (H, W) of the pictures that loaders read."""


@dataclass(frozen=True)
class Arm:
    """What one arm does.

    Attributes:
        kind: ``plain`` (a loop over OpenCLIP), ``clipzoo`` (the trainer's update), ``loader`` (reading batches).
        model: as a recipe names it; weights are random.
        batch: images of a step, on all processes together.
        head: of segmentation with 150 classes, depth and normals; None for captions alone.
        layers: tapped layers.
        accumulate: chunks of the batch.
        processes: that share the batch; their gradients are averaged by gloo.
        threads: of each process.
        device, precision, stride: as in a recipe.
        data: folder that `write_data` filled, for loaders.
    """

    kind: str
    model: str
    batch: int
    head: str | None = None
    layers: tuple[int, ...] = (-1,)
    accumulate: int = 1
    processes: int = 1
    threads: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    stride: int = 4
    data: str = ""


@dataclass(frozen=True)
class Measured:
    """Seconds of a step in each round, the peak memory of a process in bytes, and the bytes that a step reads."""

    arm: Arm
    seconds: list[float]
    peak: int
    read: int = 0

    @property
    def per_image(self) -> list[float]:
        """Seconds an image, in each round."""
        return [one / self.arm.batch for one in self.seconds]


Step = Callable[[int], object]


# Steps -----------------------------------------------------------------------------------------------------


def _student(arm: Arm) -> Student:
    torch.manual_seed(0)
    specs = {task: HeadSpec(task, convention, arm.head) for task, convention in CONVENTIONS.items()} if arm.head else {}
    student = Student.create(model_schemes.resolve(arm.model), specs=specs, layers=arm.layers, random=True)
    return student.to(arm.device).train()


def _batch(student: Student, arm: Arm) -> Batch:
    """Return this rank's share of random images, captions and labels."""
    whole = labeled_batch(student, arm.batch, arm.stride, arm.device)
    share = slice(ranks.rank(), arm.batch, ranks.world_size())
    targets = {column: {name: one[share] for name, one in target.items()} for column, target in whole.targets.items()}
    captions = whole.captions[share]
    return replace(whole, images=whole.images[share], tokens=whole.tokens[share], captions=captions, targets=targets)


def _clipzoo(arm: Arm) -> Step:
    """Return the trainer's update of a fixed batch."""
    student = _student(arm)
    recipe = TrainingRecipe(steps=10_000, batch_size=arm.batch, accumulate=arm.accumulate, precision=arm.precision)  # type: ignore[arg-type]
    job = Job(recipe, 1e-4, 10_000, Path(), device=arm.device)
    optimizer.freeze(student, job)
    sharding = Sharding(job, student)
    adam = optimizer.build(student, job)
    updater = Updater(SimpleNamespace(job=job, student=student), adam, sharding)  # type: ignore[arg-type]
    data = _batch(student, arm)
    return lambda step: updater.update(data, step)


def _plain(arm: Arm) -> Step:
    """Return a step of a loop over OpenCLIP's model and loss, as its training code has it."""
    student = _student(arm)
    data, model, loss = _batch(student, arm), student.clip, open_clip.loss.ClipLoss()
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    kept = [one for name, one in named if one.ndim < 2 or "bn" in name or "ln" in name or "bias" in name]
    decayed = [one for name, one in named if one.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias"))]
    groups = [{"params": kept, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
    fused = True if arm.device.startswith("cuda") else None
    adam = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=fused)
    dtype = DTYPES.get(arm.precision)

    def step(number: int) -> None:
        adam.zero_grad(set_to_none=True)
        with torch.autocast(arm.device, dtype, enabled=dtype is not None):
            image, text, scale = model(student.normalize(data.images), data.tokens)[:3]
            total = loss(image, text, scale)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return step


# Loaders ---------------------------------------------------------------------------------------------------


def write_data(folder: Path, count: int) -> str:
    """Write a shard of JPEG files with captions, and labels of three tasks; return the folder."""
    rng, (height, width) = np.random.default_rng(0), PICTURE
    samples = []
    for number in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
        file = io.BytesIO()
        noise.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        samples.append((f"{number:05d}", {"jpg": file.getvalue(), "txt": f"a photo of chair {number}".encode()}))
    write_shard(folder / "images" / "00000.tar", samples)
    reader, store = open_dataset(str(folder / "images")), Store(folder / "labels")
    known = np.ones(PICTURE, np.bool_)
    up = np.zeros((3, *PICTURE), np.float32)
    up[2] = 1
    blocks = np.kron(rng.integers(0, CLASSES, (height // 40, width // 40)), np.ones((40, 40), np.int64))
    ramp = np.linspace(0, 1, height * width, dtype=np.float32).reshape(PICTURE)
    made = {
        "segmentation": Segmentation(blocks.astype(np.uint16), known),
        "depth": Depth(ramp, known, "affine-disparity", None),
        "normals": Normals(up, known),
    }
    for task, label in made.items():
        column = store.create(ExpertCard("test:truth", task, CONVENTIONS[task]), fingerprint(reader))
        with ColumnWriter(column, "00000", source=shard_fingerprint(reader, "00000")) as writer:
            for key, _ in samples:
                writer.add(key, label)
        column.finish()
    return str(folder)


def _loader(arm: Arm) -> tuple[Step, int]:
    """Return the reading of a batch without the student's step, and the bytes that it reads."""
    student = _student(replace(arm, head=None))
    reader, store = open_dataset(f"{arm.data}/images"), Store(f"{arm.data}/labels")
    columns = {column.name: column for column in store.columns()} if arm.head else {}
    plan = Plan.build(reader, columns)
    labels = {name: LabelColumn(column, arm.stride) for name, column in columns.items()}
    data = TrainingSet(plan, reader, labels, Viewing(student.image_size))
    sizes = [plan.table[f"{name}:size"].to_numpy().sum() for name in ("image", "caption", *columns)]

    def batches() -> Iterator[Batch]:
        while True:
            yield from loader(data, arm.batch, student.tokenize)

    stream = batches()
    return lambda step: next(stream), int(sum(sizes) / len(plan) * arm.batch)


# Processes -------------------------------------------------------------------------------------------------


def _serve(arm: Arm, environment: Mapping[str, str], pipe: Connection) -> None:
    """Build an arm, then time the number of steps that is asked for, until it is 0."""
    os.environ |= environment
    torch.set_num_threads(arm.threads)
    with joined("cpu") if arm.processes > 1 else ExitStack():
        step, read = (
            _loader(arm) if arm.kind == "loader" else ({"plain": _plain, "clipzoo": _clipzoo}[arm.kind](arm), 0)
        )
        pipe.send(read)
        while count := pipe.recv():
            pipe.send((_seconds(step, count, arm.device), _peak(arm.device)))


def _seconds(step: Step, count: int, device: str) -> float:
    wait: Callable[[], object] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    for number in range(count):
        step(number)
    wait()
    return (time.perf_counter() - began) / count


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Running:
    """The processes of an arm; they wait without using a core until `seconds` is called."""

    def __init__(self, arm: Arm) -> None:
        context, port = multiprocessing.get_context("spawn"), _free_port()
        self.arm, self.peak = arm, 0
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(arm.processes):
            ours, theirs = context.Pipe()
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(arm.processes),
                "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
            }  # fmt: skip
            process = context.Process(target=_serve, args=(arm, environment if arm.processes > 1 else {}, theirs))
            process.start()
            theirs.close()  # the end of the process then ends a wait for it
            self.pipes.append(ours)
            self.processes.append(process)
        self.read = 0

    def wait(self) -> None:
        """Wait until the arm is built."""
        self.read = max([pipe.recv() for pipe in self.pipes])

    def seconds(self, steps: int) -> float:
        """Return the seconds of a step, the mean of several; of all processes, the slowest."""
        for pipe in self.pipes:
            pipe.send(steps)
        found = [pipe.recv() for pipe in self.pipes]
        self.peak = max(self.peak, *[peak for _, peak in found])
        return max([seconds for seconds, _ in found])

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            with suppress(OSError):  # it has ended
                pipe.send(0)
        for process in self.processes:
            process.join()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(arms: Mapping[str, Arm]) -> Iterator[dict[str, Running]]:
    """Start the arms of a section, and end them."""
    started: dict[str, Running] = {}
    try:
        for name, arm in arms.items():
            started[name] = Running(arm)
        for one in started.values():
            one.wait()
        yield started
    finally:
        for one in started.values():
            one.close()


def measure(arms: Mapping[str, Arm], rounds: int, steps: int) -> dict[str, Measured]:
    """Return the measurements of arms that take turns, in alternating order, after a step each to warm up."""
    with running(arms) as started:
        for name, one in started.items():
            print(f"{name}: {one.seconds(1):.1f} s in the first step", file=sys.stderr, flush=True)
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(rounds):
            for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
                times[name].append(started[name].seconds(steps))
        return {name: Measured(arm, times[name], started[name].peak, started[name].read) for name, arm in arms.items()}
