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

import torch
import yaml

from clipzoo import demo, experts, files
from clipzoo import recipe as recipes
from clipzoo.errors import MAX_FAILURES, ClipzooError, DatasetError, RecipeError, StoreError
from clipzoo.experts import ExpertCard
from clipzoo.files import AnyPath
from clipzoo.labeling.inputs import stages
from clipzoo.models import Student
from clipzoo.models._open_clip import check_model, here
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs.preflight import SPLITS, check_split
from clipzoo.store import Column, Manifest, Store
from clipzoo.tasks import get as get_task

MEASURED = 1300
"""Images a second of a ViT-B-16 with three heads in bf16 on one H100: benchmarks/results/training/vitb16-bf16.json."""
COMPILE = "  # compile: true  # minutes at the start, then steps take about 30 % less time on an H100\n"
BESIDE = "labels"
"""Where a store is looked for, since it is where the first steps of the README put one."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset that has been looked through; of one that is yet to be rendered no ``fingerprint`` is known."""

    location: str
    samples: int
    left_out: Mapping[str, int]
    fingerprint: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The CLIP to start from; ``layers`` are those of its vision tower that heads read."""

    model: str
    pretrained: str | None
    random: bool
    layers: tuple[int, ...]


def check_out(path: AnyPath) -> None:
    """Make the folder of a recipe and see that it can be written there, which is no news to have after five answers.

    Raises:
        RecipeError: the file is there already.
        OSError: the disk refuses.
    """
    path = files.local(path, "a recipe")
    if path.exists():
        raise RecipeError(f"{path} is there already; give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.unlink()


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
        known = fingerprint(reader)
    if not samples:
        raise DatasetError(f"{location} has no usable sample: {_reasons(left_out) or 'it is empty'}")
    return Data(location, samples, dict(left_out), known)


def check_store(location: str, data: Data) -> Store | None:
    """The store that a run is to take labels from, and put labels into; it need not be there yet. None for ``none``.

    Raises:
        StoreError: a column in it is damaged, or of another dataset.
    """
    if location == "none":
        return None
    store = Store(location)
    for column in store.columns():
        if data.fingerprint is not None:
            column.manifest.belongs(data.fingerprint, column.path)
    return store


def find_store(data: Data) -> str:
    """``labels`` if that is a folder here with labels of this dataset, else ``none``."""
    try:
        found = check_store(BESIDE, data)
    except StoreError:
        return "none"
    return BESIDE if found and found.names() and data.fingerprint is not None else "none"


def check_start(answer: str) -> Start:
    """``NAME WEIGHTS`` of OpenCLIP, ``NAME random``, or ``local-dir:``, ``hf-hub:``, ``demo:clip``, which hold theirs.

    The model is built to see its layers, with its weights if they are on this disk; weights are not fetched.

    Raises:
        CheckpointError: OpenCLIP does not know the model, or no such weights of it, or they do not fit.
    """
    named = answer.strip().removesuffix(" random")
    random = named != answer.strip()
    model, _, weights = (named, "", "") if ":" in named else named.partition(" ")
    if ":" not in model:
        check_model(model, None if random else weights)
    place = demo.locate_model(model)
    student = Student.create(place, weights or None, random=random or not here(place, weights or None))
    return Start(model, weights or None, random, _layers(student))


def check_experts(names: Sequence[str], store: Store | None = None) -> dict[str, ExpertCard]:
    """URI, or name of a column of the store whose labels are taken as they are -> card.

    Raises:
        ExpertError: one cannot be made.
        PluginError: a zoo that does not exist.
        RecipeError: none is given, or one twice.
        StoreError: there is no such column, or an expert would now make other labels than those of its own.
    """
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"give each expert once, and one at least; `clipzoo experts` lists the zoos (given: {names})")
    if store is None:
        return {name: experts.create(name).card for name in names}
    made = {name: experts.create(name) for name in names if ":" in name or "/" not in name}
    stages(list(made.values()), store)
    for card in [expert.card for expert in made.values()]:
        if card.column in store.names():
            column = store.column(card.task, card.slug)
            column.manifest.agree(Manifest.of(card, column.manifest.dataset), column.path)
    return {name: made[name].card if name in made else store.column(*name.split("/", 1)).card for name in names}


def stored(store: Store | None) -> list[str]:
    """What a store proposes for a recipe, a name a column: its expert's, or its own.

    Its own where the expert would run code that only the store names, is not at hand, would now make other labels, or
    fails more often than labeling allows.
    """
    return [_source(column, store) for column in store.columns()] if store else []


def _source(column: Column, store: Store) -> str:
    counts, uri = column.manifest.counts, column.card.uri
    if experts.runs_code(uri):  # which the store's maker named, and nobody here has asked for
        return column.name
    try:
        check_experts([uri], store)
    except ClipzooError:
        return column.name
    return uri if counts.failures <= MAX_FAILURES * (counts.labels + counts.failures) else column.name


def check_benchmarks(folder: str) -> dict[str, str]:
    """Split -> location, of a folder with ``probe``, ``validation`` and ``test`` (and ``heldout``), or of ``demo:``.

    ``none`` is nothing to measure on.

    Raises:
        RecipeError: one of the three is not there.
    """
    if folder == "none":
        return {}
    found = {}
    for split in SPLITS:
        place = f"demo:{split}" if folder == "demo:" else str(files.place(folder) / split)
        if split != "heldout" or folder == "demo:" or files.place(place).is_dir():
            check_split(split, place)
            found[split] = place
    return found


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
    store: str | None = None,
) -> str:
    """A commented recipe, which `clipzoo.recipe.load` reads.

    Args:
        path: where it will be; its stem is the run's name.
        data, start, cards, splits, epochs: what the checks gave.
        device: "cpu", or a GPU's name; sets batch, precision and workers.
        cores: of the machine; default those of this one.
        store: the label store; default one in the run's folder.
    """
    gpu, fresh = device != "cpu", start.random or start.model.startswith("demo:")
    rates = ["1.0e-3"] if fresh else ["3.0e-6", "1.0e-5", "3.0e-5"] if splits else ["1.0e-5"]
    workers = min(8, cores or os.cpu_count() or 1) if gpu else 1
    text = f"""\
name: {json.dumps(path.stem)}
data: {json.dumps(data.location)}  # {data.samples:,} usable samples; the dataset itself is never changed
# max_samples: 10000  # label and train on the first so many: a rehearsal
{_store(store)}{_columns(cards)}
student:
  model: {json.dumps(start.model)}{_weights(start)}
  layers: {list(start.layers)}  # of the vision tower, which the heads read
training:
  epochs: {epochs:g}  # or steps
  batch_size: {min(256 if gpu else 32, data.samples)}  # captions compete within a batch: as large as memory takes
  learning_rates: [{", ".join(rates)}]  # of several, validation chooses, for each arm by itself
  heads_learning_rate: 1.0e-3
  precision: {"bf16" if gpu else "fp32"}
{COMPILE if gpu else ""}  workers: {workers}  # processes that read and decode
{_evaluation(splits, start.layers)}
arms: {"[clip, clip-ft, clipzoo]" if splits else "[clipzoo]  # nothing to measure on yet"}
seeds: [0]  # [0, 1, 2] to know how much a seed alone changes
"""
    images = _images(recipes.parse(yaml.safe_load(text)).training, 2 if splits else 1, data.samples)
    return f"{_head(path, bool(splits), images, gpu, _labeled(cards, store, data.samples))}\n\n{text}"


def _images(training: recipes.TrainingRecipe, arms: int, samples: int) -> int:
    """What all trainings and trials of learning rates see."""
    trials = len(training.learning_rates) if len(training.learning_rates) > 1 else 0
    steps = training.updates(samples)
    return arms * training.batch_size * (steps + trials * training.trial_updates(steps))


def _labeled(cards: Mapping[str, ExpertCard], store: str | None, samples: int) -> bool:
    """Whether the store tells of every sample, for all columns, its label or why there is none."""
    counts = {column.name: column.manifest.counts for column in Store(store).columns()} if store else {}
    held = [counts.get(card.column if ":" in name else name) for name, card in cards.items()]
    return all(one is not None and one.labels + one.failures >= samples for one in held)


def _head(path: Path, measured: bool, images: int, gpu: bool, labeled: bool) -> str:
    """The command, how long it takes and what comes of it."""
    verb, who, expected = (
        ("run", "both trained arms see", "a page that compares the three arms")
        if measured
        else ("train", "the training sees", "a student, not measured")
    )
    lasts = (
        f": {_hours(images)} at {MEASURED:,} images/s, what one H100 does with\n# ViT-B-16 and three heads"
        if gpu
        else ", on a CPU for as long as the rate\n# of the first steps tells"
    )
    before = "" if labeled else "; labeling comes before"
    return (
        f"# clipzoo {verb} {path}     (with --dry-run it tells what that would do, and starts nothing)\n"
        f"# {who} {images:,} images in all{lasts}{before}. Expected: {expected}"
    )


def _store(store: str | None) -> str:
    return f"store: {json.dumps(store)}  # labels that are there are used, others are added\n" if store else ""


def _weights(start: Start) -> str:
    if start.random:
        return "\n  random: true"
    return f"\n  pretrained: {json.dumps(start.pretrained)}" if start.pretrained else ""


def _columns(cards: Mapping[str, ExpertCard]) -> str:
    head = "columns:  # a weight is beside the contrastive loss's 1: lower those that pull zero-shot down"
    lines = [
        f"  - {{{'expert' if ':' in name else 'column'}: {json.dumps(name)}, weight: 1.0, "
        f"head: {get_task(card.task).head}, stride: 4}}  # {card.task}"
        for name, card in cards.items()
    ]
    return "\n".join([head, *lines])


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
