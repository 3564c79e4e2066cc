"""Features of the embedded world's own expert encoder as labels: the criterion on validation.

    python benchmarks/features.py --work /tmp/features          # as long as 9 trainings of the demo
    python benchmarks/features.py --quick --out /tmp/features   # minutes; its figures prove nothing

Three variants, each from each seed: captions alone; captions and features of the network of `demo:segmentation` (the
deepest map of its encoder, 128 channels at stride 16), predicted online; captions and the labels of that expert. The
criterion is that which selects learning rates: zero-shot top-1 plus the mean of the dense headlines of probes. Nothing
is measured on test. Trainings in the folder of --work are resumed or reused. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from clipzoo import experts, recipe, runs
from clipzoo.evaluation.criterion import criterion
from clipzoo.experts import Expert, ExpertCard
from clipzoo.runs import Run
from clipzoo.store import software
from clipzoo.tasks import Convention
from clipzoo.tasks.features import unit
from clipzoo.types import ImageArray

sys.path.insert(0, str(Path(__file__).parent))  # so that `python:features:RoomFeatures` is this file

ARMS = {
    "captions": ("clip-ft", '[{expert: "demo:segmentation"}]'),
    "features": (
        "clipzoo",
        '[{expert: "python:features:RoomFeatures", head: linear, head_options: {upscale: 1}, stride: 16, '
        "online: true}]",
    ),
    "segmentation": ("clipzoo", '[{expert: "demo:segmentation"}]'),
}
"""Name -> arm of the recipe, and its columns."""

DATA = {"data": "demo:captioned", "evaluation.probe": "demo:probe", "evaluation.validation": "demo:validation"}
QUICK_DATA = {
    "data": "rooms:captioned?count=24", "evaluation.probe": "rooms:probe?count=16",
    "evaluation.validation": "rooms:validation?count=16",
}  # fmt: skip
QUICK = ("training.steps=2", "training.batch_size=8", "training.workers=0", "evaluation.label_stride=12")


class RoomFeatures(Expert):
    """The deepest map of the encoder of `demo:segmentation`."""

    batch_size = 64

    def __init__(self) -> None:
        self.expert = experts.create("demo:segmentation")
        self.expert.load()
        self.maps: list[Tensor] = []
        self._watch()
        (label,) = self.predict([np.zeros((96, 96, 3), np.uint8)])
        card = self.expert.card
        self.card = ExpertCard(
            "", "features", Convention(channels=len(label.vectors)), card.license, weights_sha256=card.weights_sha256,
        )  # fmt: skip

    def load(self, device: str = "cpu") -> None:
        """Load the network."""
        self.expert.load(device)
        self._watch()

    def _watch(self) -> None:
        module = self.expert.module
        assert module is not None
        deepest = module.get_submodule("down")[-1]
        deepest.register_forward_hook(lambda stage, given, made: self.maps.append(made))

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return the features of each picture."""
        self.maps.clear()
        self.expert.predict(images)
        (maps,) = self.maps
        centered = maps - maps.mean(1, keepdim=True)  # after ReLU all vectors would point into one orthant
        return [unit(one, np.ones(one.shape[1:], np.bool_)) for one in centered.float().cpu().numpy()]


def run_of(name: str, seed: int, args: argparse.Namespace) -> Run:
    """The demo's run with one arm and seed; all runs share one label store."""
    arm, columns = ARMS[name]
    overrides = [
        f"arms=[{arm}]", f"columns={columns}", "evaluation.test=null", "evaluation.heldout=null",
        "training.evaluate_every=null", *(f"{field}={folder}" for field, folder in args.data.items()),
        f"store={args.work / 'labels'}", f"seeds=[{seed}]",
        *(QUICK if args.quick else (f"training.steps={args.steps}",)), *args.set,
    ]  # fmt: skip
    return Run(recipe.load(args.recipe, overrides, trust=True), args.work / f"{name}-{seed}", device=args.device)


def trained(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Validation scores of a training, and its seconds, which are 0 if it is reused."""
    run, arm = run_of(name, seed, args), ARMS[name][0]
    began = time.perf_counter()
    runs.train(run, arm, seed)
    seconds = time.perf_counter() - began
    scores = criterion(run.trainings.suite.measure(run.trainings.train(arm, seed), ["validation"])["validation"])
    print(f"{name:14s} seed {seed}  criterion {scores['criterion']:.4f}  {seconds:.0f} s", flush=True)
    return {**scores, "seconds": seconds}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean and range over seeds of each score, in Markdown."""
    names = list(next(iter(results.values()))[0])
    lines = [f"| trained on | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for arm, rows in results.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of runs and labels; default a temporary one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "features")
    parser.add_argument("--recipe", type=Path, default=Path(str(resources.files("clipzoo.demo") / "recipe.yaml")))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu", help="in the notation of PyTorch")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a field of the recipe")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.data = QUICK_DATA if args.quick else DATA
    args.seeds = args.seeds[:1] if args.quick else args.seeds
    with TemporaryDirectory() as scratch:
        args.work = args.work or Path(scratch)
        results = {name: [trained(name, seed, args) for seed in args.seeds] for name in ARMS}
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"steps": args.steps, "quick": args.quick, "seeds": args.seeds, "software": software(), "scores": results}
    (args.out / "results.json").write_text(json.dumps(facts, indent=2) + "\n")
    head = f"# Features of the demo's own encoder\n\n{'Quick: proves nothing.' if args.quick else args.steps} steps, "
    (args.out / "results.md").write_text(f"{head}seeds {args.seeds}, torch {torch.__version__}.\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
