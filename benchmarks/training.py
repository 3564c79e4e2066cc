"""The cost of the trainer: its step against a plain OpenCLIP loop, and two gloo ranks against one process.

    OMP_NUM_THREADS=1 python benchmarks/training.py --model ViT-B-32 --batch 32 --out training.json

Batches are synthetic, captions only, float32, on the CPU with one thread per process. All arms have the same model,
batch, optimizer and clipping. They take turns, round by round; the table gives the median round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch

from clipzoo.data import Batch
from clipzoo.models import Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.training import Job, joined
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import Sharding
from clipzoo.training.updates import optimizer
from clipzoo.training.updates.step import Updater


def batch(student: Student, size: int) -> Batch:
    """Random images and captions, of which each rank has its share."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *student.image_size, 3), dtype=torch.uint8, generator=generator)
    captions = [f"a photo of a chair number {i}" for i in range(size)]
    share = slice(ranks.rank(), size, ranks.world_size())
    tokens = student.tokenize(captions[share])
    return Batch(images[share], tokens, captions[share], {}, [])


def student_of(args: argparse.Namespace) -> Student:
    torch.manual_seed(0)
    return Student.create(args.model, random=True).train()


def clipzoo_step(args: argparse.Namespace, accumulate: int = 1) -> Callable[[int], object]:
    """The trainer's update of a fixed batch."""
    student = student_of(args)
    recipe = TrainingRecipe(steps=10_000, batch_size=args.batch, accumulate=accumulate)
    job = Job(recipe, 1e-4, 10_000, Path())
    optimizer.freeze(student, job)
    sharding = Sharding(job, student)
    adam = optimizer.build(student, job)
    updater = Updater(SimpleNamespace(job=job, student=student), adam, sharding)  # type: ignore[arg-type]
    data = batch(student, args.batch)
    return lambda step: updater.update(data, step)


def open_clip_step(args: argparse.Namespace) -> Callable[[int], object]:
    """A plain loop over OpenCLIP's model and loss."""
    student = student_of(args)
    data, model, loss = batch(student, args.batch), student.clip, open_clip.loss.ClipLoss()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6)

    def step(number: int) -> None:
        adam.zero_grad(set_to_none=True)
        image, text, scale = model(student.normalize(data.images), data.tokens)
        loss(image, text, scale).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    return step


def seconds(step: Callable[[int], object], args: argparse.Namespace) -> float:
    began = time.perf_counter()
    for number in range(args.steps):
        step(number)
    return (time.perf_counter() - began) / args.steps


def one_process(args: argparse.Namespace) -> dict[str, list[float]]:
    """Rounds of the arms of one process, which take turns."""
    arms = {
        "plain OpenCLIP loop": open_clip_step(args),
        "clipzoo": clipzoo_step(args),
        f"clipzoo, {args.chunks} chunks": clipzoo_step(args, args.chunks),
    }
    for step in arms.values():
        step(0)
    rounds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(args.rounds):
        for name, step in arms.items():
            rounds[name].append(seconds(step, args))
    return rounds


def _rank(rank: int, port: int, args: argparse.Namespace, end: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with joined("cpu"):
        step = clipzoo_step(args)
        step(0)
        times = [seconds(step, args) for _ in range(args.rounds)]
        if rank == 0:
            end.send(times)


def two_ranks(args: argparse.Namespace) -> list[float]:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=_rank, args=(rank, port, args, theirs)) for rank in range(2)]
    for process in processes:
        process.start()
    times: list[float] = ours.recv()
    for process in processes:
        process.join()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="a round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds = {**one_process(args), "clipzoo, 2 gloo ranks": two_ranks(args)}
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {args.model}, batch {args.batch}, torch {torch.__version__}")
    for name, median in medians.items():
        print(f"{name:24s} {args.batch / median:8.1f} images/s   step {median / medians['clipzoo']:.3f} × clipzoo's")
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        args.out.write_text(json.dumps({"settings": settings, "seconds": rounds}, indent=1))


if __name__ == "__main__":
    main()
