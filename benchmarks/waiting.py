"""Time of a step of the demo on a CPU, by how long idle threads of an operator wait busily; with and without a loader.

    python benchmarks/waiting.py                            # a quarter of an hour
    python benchmarks/waiting.py --quick --out /tmp/waiting

Each setting trains the demo's arm `clipzoo` for some steps in a process of its own, in turns. The command line sets
GOMP_SPINCOUNT=2000. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

SETTINGS = {
    "default": {}, "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}  # fmt: skip
WARM = 10
"""Steps that are not timed."""


class Clock:
    """A receiver of progress that records when each logged step ends."""

    def __init__(self) -> None:
        self.steps: dict[int, float] = {}

    def stage(self, text: str) -> None:
        """Do nothing."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Record the time."""
        self.steps[done] = time.perf_counter()


def train(work: Path, workers: int, steps: int) -> float:
    """Train in this process; return the mean seconds of a step after the first ones."""
    from clipzoo import recipe, runs

    overrides = [
        "arms=[clipzoo]", "evaluation.test=null", "evaluation.heldout=null", "training.evaluate_every=null",
        "training.log_every=1", f"training.steps={steps}", f"training.workers={workers}", f"store={work / 'labels'}",
    ]  # fmt: skip
    clock = Clock()
    demo = recipe.load(Path(str(resources.files("clipzoo.demo") / "recipe.yaml")), overrides)
    with TemporaryDirectory(dir=work) as folder:
        runs.train(runs.Run(demo, Path(folder), device="cpu", progress=clock), "clipzoo", 0)
    first, last = min(WARM, steps - 1), steps
    return (clock.steps[last] - clock.steps[first]) / (last - first)


def measure(work: Path, rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Return loading processes -> setting -> seconds a step of each round."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):  # the first round labels and is not counted
        for workers in ("1", "0") if number else ("0",):
            for name, values in SETTINGS.items() if number else [("default", {})]:
                command = [sys.executable, __file__, "--train", str(work), workers, str(steps if number else 1)]
                done = subprocess.run(
                    command, env={**os.environ, **values}, check=True, stdout=subprocess.PIPE, text=True
                )
                if number:
                    seconds = float(done.stdout.splitlines()[-1])
                    found.setdefault(workers, {}).setdefault(name, []).append(seconds)
                    print(f"{workers} loading processes, {name}: {seconds:.3f} s a step", flush=True)
    return found


def page(found: dict[str, dict[str, list[float]]], settings: dict[str, object]) -> str:
    """Return the results as Markdown."""
    lines = ["# Waiting of idle threads", "", ", ".join(f"{name}: {value}" for name, value in settings.items()), ""]
    lines += ["| loading processes | setting | seconds a step, median | relative to the default |"]
    lines += ["| ---: | --- | ---: | ---: |"]
    for workers, every in found.items():
        for name, seconds in every.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, every["default"], strict=True))
            lines.append(f"| {workers} | {name} | {statistics.median(seconds):.3f} | {ratio:.2f} × |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: the figures prove nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/waiting")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        print(train(Path(args.train[0]), int(args.train[1]), int(args.train[2])))
        return
    rounds, steps = (1, 2) if args.quick else (args.rounds, args.steps)
    settings = {"machine": platform.machine(), "cores": os.cpu_count(), "rounds": rounds, "steps": steps}
    with TemporaryDirectory(prefix="waiting-") as folder:
        found = measure(Path(folder), rounds, steps)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps({"settings": settings, "seconds": found}, indent=1) + "\n")
    (args.out / "results.md").write_text(page(found, settings))
    print(page(found, settings))


if __name__ == "__main__":
    main()
