"""A first recipe from five answers, each checked by what the run will use: data, model, experts, measures, time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
import yaml

from clipzoo import demo, experts
from clipzoo import recipe as recipes
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.experts import ExpertCard
from clipzoo.models import Student
from clipzoo.readers import open_dataset
from clipzoo.tasks import get as get_task
from clipzoo.workspace import SPLITS, check_split

MEASURED = 1300
"""Images a second of a ViT-B-16 with three heads in bf16 on one H100: benchmarks/results/training/vitb16-bf16.json."""
SEARCH = 0.25
"""Length of a trial of a learning rate, in trainings."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset that has been looked through."""

    location: str
    samples: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Start:
    """The CLIP to start from; ``layers`` are those of its vision tower that heads read."""

    model: str
    pretrained: str | None
    random: bool
    layers: tuple[int, ...]


def check_data(location: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Data:
    """Open a dataset and count its samples.

    Args:
        location: what a recipe's ``data`` takes.
        progress: told (shards done, of all).

    Raises:
        DatasetError: there is none, or nothing in it can be used.
    """
    demo.check(location)
    if pictures := demo.to_render(location):
        return Data(location, pictures, {})
    with TemporaryDirectory() as scratch:
        reader = open_dataset(demo.locate_data(location, Path(scratch)))
        samples, left_out = 0, Counter[str]()
        for done, shard in enumerate(reader.shards, 1):
            errors = [entry.error for entry in reader.index(shard)]
            left_out.update(error.split(":")[0] for error in errors if error)
            samples += errors.count(None)
            progress(done, len(reader.shards))
    if not samples:
        raise DatasetError(f"{location} has no usable sample: {_reasons(left_out) or 'it is empty'}")
    return Data(location, samples, dict(left_out))


def check_start(answer: str) -> Start:
    """``NAME WEIGHTS`` of OpenCLIP, ``NAME random``, or ``local-dir:``, ``hf-hub:``, ``demo:clip``, which hold theirs.

    The architecture is built to see its layers; weights that must be fetched are not.

    Raises:
        RecipeError: weights that the model does not have.
        CheckpointError: OpenCLIP does not know the model.
    """
    named = answer.strip().removesuffix(" random")
    random = named != answer.strip()
    model, _, weights = (named, "", "") if ":" in named else named.partition(" ")
    student = Student.create(demo.locate_model(model), random=True)
    if ":" not in model and not random:
        tags = open_clip.list_pretrained_tags_by_model(model)
        if weights not in tags and not Path(weights).is_file():
            raise RecipeError(
                f"{model} has no weights {weights!r}; give '{model} TAG' with a tag out of {', '.join(tags)}, or a "
                f"file, or '{model} random'"
            )
    return Start(model, weights or None, random, _layers(student))


def check_experts(uris: Sequence[str]) -> dict[str, ExpertCard]:
    """URI -> card.

    Raises:
        ExpertError: one cannot be made.
        PluginError: a zoo that does not exist.
        RecipeError: none is given, or one twice.
    """
    if not uris or len(set(uris)) < len(uris):
        raise RecipeError(f"give each expert once, and one at least; `clipzoo experts` lists the zoos (given: {uris})")
    return {uri: experts.create(uri).card for uri in uris}


def check_benchmarks(folder: str) -> dict[str, str]:
    """Split -> location, of a folder with ``probe``, ``validation`` and ``test`` (and ``heldout``), or of ``demo:``.

    ``none`` is nothing to measure on.

    Raises:
        RecipeError: one of the three is not there.
    """
    if folder == "none":
        return {}
    places = {split: f"demo:{split}" if folder == "demo:" else str(Path(folder) / split) for split in SPLITS}
    if folder != "demo:" and not Path(places["heldout"]).is_dir():
        del places["heldout"]
    for split, place in places.items():
        check_split(split, place)
    return places


def check_epochs(answer: str | float) -> float:
    """A number above 0; raises `RecipeError` for anything else."""
    try:
        epochs = float(answer)
    except ValueError:
        epochs = 0.0
    if not 0 < epochs < float("inf"):
        raise RecipeError(f"{answer!r} is not a number of epochs: give one above 0, such as 0.5 or 3")
    return epochs


def defaults(data: str, device: str) -> dict[str, Any]:
    """What is proposed for a dataset on a device: ``model``, ``experts``, ``benchmarks``, ``epochs``."""
    packaged = data.startswith(("demo:", "rooms:"))
    tasks = ("segmentation", "depth", "normals")
    return {
        "model": "demo:clip" if packaged else "ViT-B-16 openai",
        "experts": [f"demo:{t}" for t in tasks] if packaged else ["hf:depth-anything/Depth-Anything-V2-Small-hf"],
        "benchmarks": "demo:" if packaged else "bench" if Path("bench").is_dir() else "none",
        "epochs": 8.0 if packaged else 3.0 if device != "cpu" else 1.0,
    }


def draft(
    path: Path,
    data: Data,
    start: Start,
    cards: Mapping[str, ExpertCard],
    splits: Mapping[str, str],
    epochs: float,
    device: str,
    cores: int | None = None,
) -> str:
    """A commented recipe, which `clipzoo.recipe.load` reads.

    Args:
        path: where it will be; its stem is the run's name.
        data, start, cards, splits, epochs: what the checks gave.
        device: "cpu", or a GPU's name; sets batch, precision and workers.
        cores: of the machine; default those of this one.
    """
    gpu, fresh = device != "cpu", start.random or start.model.startswith("demo:")
    rates = ["1.0e-3"] if fresh else ["3.0e-6", "1.0e-5", "3.0e-5"] if splits else ["1.0e-5"]
    trials = len(rates) * SEARCH if len(rates) > 1 else 0
    images = round((2 if splits else 1) * (1 + trials) * epochs * data.samples)
    verb, who, arms, expected = (
        ("run", "both trained arms see", "[clip, clip-ft, clipzoo]", "a page that compares the three arms")
        if splits
        else ("train", "the training sees", "[clipzoo]  # nothing to measure on yet", "a student, not measured")
    )
    text = f"""\
# clipzoo {verb} {path}     (with --dry-run it tells what that would do, and starts nothing)
# {who} {images:,} images in all: {_hours(images)} at {MEASURED:,} images/s, what one H100 does with
# ViT-B-16 and three heads; labelling comes before. Expected: {expected}

name: {json.dumps(path.stem)}
data: {json.dumps(data.location)}  # {data.samples:,} usable samples; the dataset itself is never changed
# max_samples: 10000  # label and train on the first so many: a rehearsal
columns:  # a weight is that of the loss beside the contrastive loss's 1: lower those that pull zero-shot down
{_columns(cards)}
student:
  model: {json.dumps(start.model)}{_weights(start)}
  layers: {list(start.layers)}  # of the vision tower, which the heads read
training:
  epochs: {epochs:g}  # or steps
  batch_size: {min(256 if gpu else 32, data.samples)}  # captions compete within a batch: as large as memory takes
  learning_rates: [{", ".join(rates)}]  # of several, validation chooses, for each arm by itself
  heads_learning_rate: 1.0e-3
  precision: {"bf16" if gpu else "fp32"}
  # compile: true  # minutes at the start, then steps take about 30 % less time on an H100
  workers: {min(8, cores or os.cpu_count() or 1) if gpu else 1}  # processes that read and decode
{_evaluation(splits, start.layers)}
arms: {arms}
seeds: [0]  # [0, 1, 2] to know how much a seed alone changes
"""
    recipes.parse(yaml.safe_load(text))
    return text


def _weights(start: Start) -> str:
    if start.random:
        return "\n  random: true"
    return f"\n  pretrained: {json.dumps(start.pretrained)}" if start.pretrained else ""


def _columns(cards: Mapping[str, ExpertCard]) -> str:
    lines = [
        f"  - {{expert: {json.dumps(uri)}, weight: 1.0, head: {get_task(card.task).head}, stride: 4}}  # {card.task}"
        for uri, card in cards.items()
    ]
    return "\n".join(lines)


def _evaluation(splits: Mapping[str, str], layers: Sequence[int]) -> str:
    if not splits:
        return (
            "# evaluation: {probe: bench/probe, validation: bench/validation, test: bench/test}  # docs/benchmarks.md"
        )
    places = [f"  {split}: {json.dumps(place)}" for split, place in splits.items()]
    return "\n".join(["evaluation:", *places, f"  layers: {list(layers)}"])


def _hours(images: int) -> str:
    minutes = images / MEASURED / 60
    return f"about {minutes / 60:,.1f} hours" if minutes >= 90 else f"about {minutes:.1f} minutes"


@torch.no_grad()
def _layers(student: Student) -> tuple[int, ...]:
    """The middle and the last of equal blocks; the last two of a pyramid's stages."""
    image = student.normalize(torch.zeros(1, *student.image_size, 3, dtype=torch.uint8))
    maps = student.eval().clip.forward_intermediates(image, image_output_fmt="NCHW")["image_intermediates"]
    last = len(maps) - 1
    return (last // 2 if len({m.shape for m in maps}) == 1 else max(last - 1, 0), last)


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in left_out.items())
