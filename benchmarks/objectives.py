"""Balancing, doubtful labels and anchors on the embedded world: validation after training, and the time of a step.

    python benchmarks/objectives.py --work /tmp/objectives          # as long as 30 trainings of the demo
    python benchmarks/objectives.py --quick --out /tmp/objectives   # minutes; its figures prove nothing

Each variant trains the demo's arm `clipzoo` from each seed, with one change of the recipe. The criterion is that which
selects learning rates: zero-shot top-1 plus the mean of the dense headlines of probes. Nothing is measured on test.
Trainings in the folder of --work are resumed or reused. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from clipzoo import recipe, runs
from clipzoo.data import LabelColumn, TrainingSet, Viewing, loader
from clipzoo.evaluation.criterion import criterion
from clipzoo.locations import resolve, resolve_data
from clipzoo.runs import Run
from clipzoo.store import software
from clipzoo.training import Job
from clipzoo.training.processes.sharding import Sharding
from clipzoo.training.updates import optimizer
from clipzoo.training.updates.step import Updater

SCHEMES = ("fixed", "uncertainty", "gradient_norm", "equal_scale", "expert_dropping")
TRIMMED, SCORED = (0, 1, 2, 4), (0, 3)
"""Columns of the demo whose labels can be trimmed: all but detection; and those whose labels have a confidence."""
VARIANTS = {
    **{scheme: [f"training.balancing={scheme}"] for scheme in SCHEMES},
    "confidence_weight 1": [f"columns.{i}.confidence_weight=1" for i in SCORED],
    "trim 0.1": [f"columns.{i}.trim=0.1" for i in TRIMMED],
    "embedding anchor 1": ["training.anchors={embedding: 1.0}"],
    "embedding anchor 5": ["training.anchors={embedding: 5.0}"],
    "gram anchor 1": ["training.anchors={gram: 1.0}"],
}
"""Name -> changes of the demo's recipe."""
DATA = {"data": "demo:captioned", "evaluation.probe": "demo:probe", "evaluation.validation": "demo:validation"}
QUICK_DATA = {
    "data": "rooms:captioned?count=24", "evaluation.probe": "rooms:probe?count=16",
    "evaluation.validation": "rooms:validation?count=16",
}  # fmt: skip
QUICK = ("training.steps=2", "training.batch_size=8", "training.workers=0", "evaluation.label_stride=12")


def run_of(variant: str, seed: int, args: argparse.Namespace) -> Run:
    """The demo's run with one arm, seed and change; all runs share one label store."""
    overrides = [
        "arms=[clipzoo]", "evaluation.test=null", "evaluation.heldout=null", "training.evaluate_every=null",
        *(f"{field}={folder}" for field, folder in args.data.items()),
        f"store={args.work / 'labels'}", f"seeds=[{seed}]", *VARIANTS[variant],
        *(QUICK if args.quick else (f"training.steps={args.steps}",)), *args.set,
    ]  # fmt: skip
    return Run(
        recipe.load(args.recipe, overrides), args.work / f"{variant.replace(' ', '-')}-{seed}", device=args.device
    )


def trained(variant: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Validation scores of a training, and its seconds, which are 0 if it is reused."""
    run = run_of(variant, seed, args)
    began = time.perf_counter()
    runs.train(run, "clipzoo", seed)
    seconds = time.perf_counter() - began
    student = run.trainings.train("clipzoo", seed)
    scores = criterion(run.trainings.suite.measure(student, ["validation"])["validation"])
    print(f"{variant:20s} seed {seed}  criterion {scores['criterion']:.4f}  {seconds:.0f} s", flush=True)
    return {**scores, "seconds": seconds}


def step_of(run: Run, measured: bool, args: argparse.Namespace) -> Any:
    """An update of a fixed batch of a run, to be timed."""
    student, settings = run.start("clipzoo").to(args.device), run.recipe.training
    if measured:
        settings = settings.model_copy(update={"gradients_every": 1})
    labels = {name: LabelColumn(column, one.stride) for name, (one, column) in run.columns.items()}
    data = TrainingSet(run.plan, run.reader, labels, Viewing(student.image_size, settings.scale))
    batch = next(iter(loader(data, settings.batch_size, student.tokenize))).to(torch.device(args.device))
    weights = {name: one.weight for name, (one, _) in run.columns.items()}
    job = Job(settings, settings.learning_rates[0], 10_000, run.out, weights, 0, args.device)
    optimizer.freeze(student, job)
    sharding, adam = Sharding(job, student), optimizer.build(student, job)
    updater = Updater(SimpleNamespace(job=job, student=student.train()), adam, sharding)  # type: ignore[arg-type]
    return lambda step: updater.update(batch, step).values()


def costs(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step of each scheme, and of one in which gradients are measured for the log. They take turns.

    On a CPU, these are the seconds of computation of all threads, which other processes do not change much.
    """
    clock = time.perf_counter if args.device.startswith("cuda") else time.process_time
    steps = {scheme: step_of(run_of(scheme, args.seeds[0], args), False, args) for scheme in SCHEMES}
    steps["fixed, gradients_every: 1"] = step_of(run_of("fixed", args.seeds[0], args), True, args)
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        order = list(steps.items())
        for name, step in order[number % len(order) :] + order[: number % len(order)]:
            began = clock()
            step(number)  # its values are read, which waits for the device
            if number:
                rounds[name].append(clock() - began)
    return rounds


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings, scored = found["settings"], [one for seeds in found["scores"].values() for one in seeds.values()]
    names = sorted({name for one in scored for name in one})
    names = ["criterion", *(name for name in names if name not in ("criterion", "seconds"))]
    lines = [
        "# Balancing, doubtful labels and anchors", "",
        f"{settings['machine']}, {settings['cores']} cores, {settings['device']}, {settings['steps']} steps, seeds "
        f"{settings['seeds']}, validation" + (", **quick: these figures prove nothing**" if settings["quick"] else ""),
        "",
    ]  # fmt: skip
    if scored:
        lines += [f"| change | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for variant, seeds in found["scores"].items():
        cells = [spread([scores[name] for scores in seeds.values() if name in scores]) for name in names]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    lines += ["", "Means over seeds, and the range in parentheses.", ""] if scored else []
    if found["costs"]:
        lines += ["| step | seconds, median | relative to fixed |", "| --- | ---: | ---: |"]
        plain = found["costs"]["fixed"]
        for name, times in found["costs"].items():
            ratio = statistics.median(a / b for a, b in zip(times, plain, strict=True))
            lines.append(f"| {name} | {statistics.median(times):.3f} | {ratio:.2f} × |")
        lines.append("")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean of values, and their range if there are several."""
    between = f" ({max(values) - min(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{between}" if values else "–"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    args.work.mkdir(parents=True, exist_ok=True)
    args.data = {  # unpacked or rendered once for all runs
        field: (resolve_data if field == "data" else resolve)(location, args.work)
        for field, location in (QUICK_DATA if args.quick else DATA).items()
    }
    settings = {
        "quick": args.quick, "steps": 2 if args.quick else args.steps, "seeds": args.seeds, "set": args.set,
        "recipe": args.recipe.name, "machine": platform.machine(), "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU", "software": software(),
    }  # fmt: skip
    scores: dict[str, dict[str, dict[str, float]]] = {}
    if not args.costs_only:
        every = {(one, seed): trained(one, seed, args) for seed in args.seeds for one in args.variants}
        scores = {one: {str(seed): every[one, seed] for seed in args.seeds} for one in args.variants}
    else:
        runs.label(run_of("fixed", args.seeds[0], args))
    return {"settings": settings, "scores": scores, "costs": costs(args) if args.rounds else {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--recipe", type=Path, default=Path(str(resources.files("clipzoo.demo") / "recipe.yaml")))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=None, help="of which the time of a step is taken; 0 takes none")
    parser.add_argument("--costs-only", action="store_true", help="train nothing, take the time of a step alone")
    parser.add_argument("--set", nargs="*", default=[], help="a.b=value of the recipe, as in clipzoo run --set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="folder of the trainings; default a temporary one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/objectives")
    args = parser.parse_args()
    args.seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
    args.rounds = (1 if args.quick else 10) if args.rounds is None else args.rounds
    with TemporaryDirectory(prefix="objectives-") as folder:
        args.work = (args.work or Path(folder)).absolute()
        found = measure(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "results.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
