"""What pseudo-labels cost in training: images a second of both arms, side by side in one process.

    python benchmarks/training_cost.py --model ViT-B-16 --batch 256 --precision bf16 --out cost.json

Batches are synthetic and lie on the device, so that the step alone is measured: forward, losses, backward, AdamW. Arms
take turns, round by round; the table gives the median round and its ratio to captions alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipzoo.data import Batch
from clipzoo.models import HeadSpec, Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.tasks import Convention
from clipzoo.tasks import get as get_task
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.training import Job, objectives
from clipzoo.training.updates import optimizer

CLASSES = 150
CONVENTIONS = {
    "segmentation": Convention(classes=tuple(f"class {i}" for i in range(CLASSES))),
    "depth": Convention(kind="affine-disparity"),
    "normals": Convention(),
}
JOB = Job(TrainingRecipe(steps=1), rate=1e-5, steps=1, out=Path())


def batch(student: Student, size: int, stride: int, device: str) -> Batch:
    """Random images, captions and labels of the student's specs."""
    rng = np.random.default_rng(0)
    H, W = student.image_size
    shape = (H // stride, W // stride)
    known = np.ones(shape, np.bool_)
    up = np.zeros((3, *shape), np.float32)
    up[2] = 1
    make: dict[str, Callable[[], Any]] = {
        "segmentation": lambda: Segmentation(rng.integers(0, CLASSES, shape).astype(np.uint16), known),
        "depth": lambda: Depth(rng.random(shape, np.float32), known, "affine-disparity", None),
        "normals": lambda: Normals(up, known),
    }
    targets = {
        c: get_task(s.task).collate([make[s.task]() for _ in range(size)], shape) for c, s in student.specs.items()
    }
    images = torch.from_numpy(rng.integers(0, 256, (size, H, W, 3), np.uint8))
    captions = [f"a photo of a chair number {i}" for i in range(size)]
    return Batch(images, student.tokenize(captions), captions, targets, []).to(torch.device(device))


class Arm:
    """A student with its optimizer and batch; `step` is one update."""

    def __init__(self, head: str | None, compiled: bool, args: argparse.Namespace) -> None:
        specs = {task: HeadSpec(task, c, head) for task, c in CONVENTIONS.items()} if head else {}
        torch.manual_seed(0)
        self.student = Student.create(args.model, specs=specs, layers=args.layers, random=True).to(args.device).train()
        self.batch = batch(self.student, args.batch, args.stride, args.device)
        self.forward = torch.compile(self.student) if compiled else self.student
        self.adam = optimizer.build(self.student, JOB)
        self.objectives = objectives.build(self.student)
        self.args = args

    def step(self) -> None:
        with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.precision == "bf16"):
            out = self.forward(self.batch.images, self.batch.tokens)
        out = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in out.items()}
        loss = objectives.total(self.objectives, objectives.terms(self.objectives, out, self.batch))
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.adam.step()

    def seconds(self, steps: int) -> float:
        wait = torch.cuda.synchronize if self.args.device == "cuda" else lambda: None
        wait()
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait()
        return (time.perf_counter() - began) / steps


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    arms = {("captions alone", compiled): Arm(None, compiled, args) for compiled in args.compile}
    arms |= {
        (f"3 tasks, {head}", compiled): Arm(head, compiled, args) for head in args.heads for compiled in args.compile
    }
    peaks = {}
    for name, arm in arms.items():  # warms up, compiles
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if args.device == "cuda" else 0
        for _ in range(3):
            arm.step()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30 if args.device == "cuda" else None
    rounds: dict[Any, list[float]] = {name: [] for name in arms}
    for _ in range(args.rounds):
        for name, arm in arms.items():
            rounds[name].append(arm.seconds(args.steps))
    reference = statistics.median(rounds["captions alone", args.compile[0]])
    return [
        {
            "arm": name, "compiled": compiled, "images_per_second": args.batch / statistics.median(times),
            "seconds": sorted(times), "step_over_captions_alone": statistics.median(times) / reference,
            "working_memory_gib": peaks[name, compiled],
        }
        for (name, compiled), times in rounds.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 11])
    parser.add_argument("--heads", nargs="+", default=["linear", "conv"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--stride", type=int, default=4, help="image pixels per target pixel")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--compile", type=int, nargs="+", default=[0], help="0, 1 or both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.compile = [bool(c) for c in args.compile]
    rows = measure(args)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU"
    settings = {k: v for k, v in vars(args).items() if k != "out"} | {"device": device, "torch": torch.__version__}
    print(device, args.model, args.precision, f"batch {args.batch}")
    for row in rows:
        memory = "" if row["working_memory_gib"] is None else f"{row['working_memory_gib']:7.1f} GiB"
        name = f"{row['arm']:20s} {'compiled' if row['compiled'] else 'eager':9s}"
        print(f"{name} {row['images_per_second']:9.0f} images/s {row['step_over_captions_alone']:6.2f} × {memory}")
    if args.out:
        args.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
