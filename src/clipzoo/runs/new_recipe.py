"""A first recipe from five answers: data, model, experts, benchmarks, epochs. Each is checked as the run would."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from clipzoo import experts, files, locations, model_schemes
from clipzoo import recipe as recipes
from clipzoo.errors import MAX_FAILURES, ClipzooError, DatasetError, RecipeError, StoreError, counted
from clipzoo.experts import ExpertCard
from clipzoo.files import AnyPath, several
from clipzoo.labeling.inputs import stages
from clipzoo.locations import Proposals
from clipzoo.models import Student, check_model, weights_are_local
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs.before.preflight import SPLITS, check_split
from clipzoo.store import Column, Manifest, Store
from clipzoo.tasks import get as get_task

MEASURED = 1300
"""Images per second of a ViT-B-16 with three heads in bf16 on an H100: benchmarks/results/training/vitb16-bf16.json."""
COMPILE = "  # compile: true  # takes minutes at the start; then steps take about 30 % less time on an H100\n"
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
LABELS = "labels"
"""The folder in which a store is searched for: the first steps of the README create it there."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset whose samples were counted; ``fingerprint`` is None if it has not been rendered yet."""

    location: str
    samples: int
    left_out: Mapping[str, int]
    fingerprint: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The CLIP to start from; heads read ``layers`` of its vision tower."""

    model: str
    pretrained: str | None
    random: bool
    layers: tuple[int, ...]


def check_out(path: AnyPath, force: bool = False) -> None:
    """Create the folder of a recipe and check, before any question, that a file can be written there.

    Raises:
        RecipeError: the file exists, and ``force`` is false.
        OSError: the file cannot be written.
    """
    path = files.local(path, "a recipe")
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; give --out a file, such as {path / 'recipe.yaml'}")
    if path.exists():
        if force:
            return
        raise RecipeError(f"{path} exists; give another --out, or --force to overwrite it")
    files.make_folder(path.parent)
    with files.named(path):
        path.touch()
    path.unlink()


def dataset_of(path: AnyPath) -> str | None:
    """Return the dataset of a recipe, also of one with mistakes; None if the file is not a recipe with a dataset."""
    try:
        values = recipes.read_yaml(files.local(path, "a recipe").read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, RecipeError):
        return None
    data = values.get("data") if isinstance(values, dict) else None
    if isinstance(data, list):
        parts = [one if isinstance(one, dict) else {"data": one} for one in data]
        named = {str(one.get("name") or several.name_of(str(one.get("data")))): str(one.get("data")) for one in parts}
        return several.combine(named) if named else None
    return data if isinstance(data, str) else None


def check_data(location: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Data:
    """Open a dataset and count its samples.

    Args:
        location: what a recipe's ``data`` takes.
        progress: receives (shards done, all shards).

    Raises:
        DatasetError: the dataset does not exist, or none of its samples is usable.
    """
    if pictures := locations.pictures_to_render(location):
        return Data(location, pictures, {})
    with TemporaryDirectory() as scratch:
        reader = open_dataset(locations.resolve_data(location, Path(scratch)))
        samples, left_out = 0, Counter[str]()
        for done, shard in enumerate(reader.shards, 1):
            errors = [entry.error for entry in reader.index(shard)]
            left_out.update(error.split(":")[0] for error in errors if error)
            samples += errors.count(None)
            progress(done, len(reader.shards))
        known = fingerprint(reader)
    if not samples:
        raise DatasetError(
            f"{location} has no usable samples: {_reasons(left_out) or 'it is empty'}. Formats are listed in "
            f"docs/data.md; `clipzoo check {shlex.quote(location)}` shows examples"
        )
    return Data(location, samples, dict(left_out), known)


def check_store(location: str, data: Data) -> Store | None:
    """Return the store that the run reads labels from and writes labels to; it may not exist yet. None for ``none``.

    Raises:
        StoreError: a column is damaged, or labels another dataset.
    """
    if location == "none":
        return None
    store = Store(location)
    for column in store.columns():
        if data.fingerprint is not None:
            column.manifest.belongs(data.fingerprint, column.path)
    return store


def find_store(data: Data) -> str:
    """Return ``labels`` if this folder has labels of the dataset, else ``none``."""
    try:
        found = check_store(LABELS, data)
    except StoreError:
        return "none"
    return LABELS if found and found.names() and data.fingerprint is not None else "none"


def check_start(answer: str) -> Start:
    """Build a model to find its layers, with its weights if they are on this disk; nothing is downloaded.

    Args:
        answer: ``NAME WEIGHTS`` of OpenCLIP, ``NAME random``, or ``local-dir:``, ``hf-hub:`` or ``demo:clip``, which
            include their weights.

    Raises:
        CheckpointError: OpenCLIP has no such model or weights, or the weights do not fit.
    """
    named = answer.strip().removesuffix(" random")
    random = named != answer.strip()
    model, _, weights = (named, "", "") if ":" in named else named.partition(" ")
    if ":" not in model:
        check_model(model, None if random else weights)
    place = model_schemes.resolve(model)
    student = Student.create(place, weights or None, random=random or not weights_are_local(place, weights or None))
    return Start(model, weights or None, random, _layers(student))


def check_experts(names: Sequence[str], store: Store | None = None) -> dict[str, ExpertCard]:
    """Return URI, or column of the store whose existing labels are used -> card.

    Raises:
        ExpertError: an expert cannot be created.
        PluginError: there is no such zoo.
        RecipeError: no name is given, or one twice.
        StoreError: there is no such column, or an expert would now label differently than its column says.
    """
    if not names or len(set(names)) < len(names):
        raise RecipeError(
            f"give at least one expert, and each expert once; `clipzoo experts` lists the zoos (given: {names})"
        )
    if store is None:
        return {name: experts.create(name).card for name in names}
    made = {name: experts.create(name) for name in names if ":" in name or "/" not in name}
    stages(list(made.values()), store)
    for card in [expert.card for expert in made.values()]:
        if card.column in store.names():
            column = store.column(card.task, card.slug)
            column.manifest.agree(Manifest.of(card, column.manifest.dataset), column.path)
    return {name: made[name].card if name in made else store.column(*name.split("/", 1)).card for name in names}


def proposed_columns(store: Store | None) -> list[str]:
    """Return a name per column of a store, for a recipe: the URI of its expert, or the column's own name.

    The latter if the expert would run code that only the store names, is not available, would label differently now,
    or fails more often than labeling allows.
    """
    return [_source(column, store) for column in store.columns()] if store else []


def _source(column: Column, store: Store) -> str:
    counts, uri = column.manifest.counts, column.card.uri
    if experts.runs_code(uri):  # named by whoever made the store, not by the user
        return column.name
    try:
        check_experts([uri], store)
    except ClipzooError:
        return column.name
    return uri if counts.failures <= MAX_FAILURES * (counts.labels + counts.failures) else column.name


def check_benchmarks(folder: str) -> dict[str, str]:
    """Return split -> location.

    Args:
        folder: with ``probe``, ``validation``, ``test`` and perhaps ``heldout``; a scheme of `clipzoo.locations` such
            as ``demo:``; or ``none``.

    Raises:
        RecipeError: one of the first three is missing.
    """
    if folder == "none":
        return {}
    scheme, places = folder.endswith(":"), {}
    for split in SPLITS:
        place = f"{folder}{split}" if scheme else str(files.place(folder) / split)
        if scheme or split != "heldout" or files.place(place).is_dir():
            check_split(split, place)
            places[split] = place
    return places


def check_epochs(answer: str | float) -> float:
    """Return a number above 0; `RecipeError` for anything else."""
    try:
        epochs = float(answer)
    except ValueError:
        epochs = 0.0
    if not 0 < epochs < float("inf"):
        raise RecipeError(f"{answer!r} is not a number of epochs: give a number above 0, such as 0.5 or 3")
    return epochs


def defaults(data: str, device: str) -> Proposals:
    """Return the proposed answers for a dataset on a device: ``model``, ``experts``, ``benchmarks``, ``epochs``."""
    general: Proposals = {
        "model": "ViT-B-16 openai",
        "experts": ["hf:depth-anything/Depth-Anything-V2-Small-hf"],
        "benchmarks": "bench" if Path("bench").is_dir() else "none",
        "epochs": 1.0 if device == "cpu" else 3.0,
    }
    return {**general, **locations.proposals(data)}


def recipe_text(
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
    """Return a commented recipe, which `clipzoo.recipe.load` reads.

    Args:
        path: of the recipe; its stem becomes the name of the run.
        data, start, cards, splits, epochs: results of the checks.
        device: "cpu" or a GPU; decides batch size, compilation and workers.
        cores: CPU cores; default those of this machine.
        store: the label store; default one in the run's folder.
    """
    gpu = device != "cpu"
    workers = min(8, cores or os.cpu_count() or 1) if gpu else 1
    text = f"""\
name: {_quoted(path.stem)}
{_data(data)}
# max_samples: 10000  # for a trial run, label and train on the first 10000 samples only
{_store(store)}{_columns(cards)}
student:
  model: {_quoted(start.model)}{_weights(start)}
  layers: {list(start.layers)}  # layers of the vision tower that the heads read
training:
  epochs: {epochs:g}  # or steps
  batch_size: {min(256 if gpu else 32, data.samples)}  # captions compete within a batch: as large as memory allows
  learning_rates: [{", ".join(_rates(start, bool(splits)))}]  # validation chooses one for each arm
  heads_learning_rate: 1.0e-3
  precision: auto  # bf16 where the device has instructions for it, else fp32
{COMPILE if gpu else ""}  workers: {workers}  # processes that read and decode
{_evaluation(splits, start.layers)}
arms: {"[clip, clip-ft, clipzoo]" if splits else "[clipzoo]  # no benchmark yet: arms cannot be compared"}
seeds: [0]  # [0, 1, 2] shows how much results depend on the seed
"""
    images = _images(recipes.parse(yaml.safe_load(text)).training, 2 if splits else 1, data.samples)
    return f"{_head(path, bool(splits), images, gpu, _labeled(cards, store, data.samples))}\n\n{text}"


def _quoted(text: str) -> str:
    """Return a text in quotes: JSON with characters as they are, but for those that YAML has only as escapes."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _rates(start: Start, measured: bool) -> list[str]:
    """Return learning rates of the image tower: high for untrained weights, a grid if validation can choose."""
    proposed = model_schemes.learning_rates(start.model) or ((1e-3,) if start.random else ())
    if not proposed:
        proposed = (3e-6, 1e-5, 3e-5) if measured else (1e-5,)
    return [f"{rate:.1e}".replace("e-0", "e-") for rate in proposed]


def _images(training: recipes.TrainingRecipe, arms: int, samples: int) -> int:
    """Return the images that all trainings and trials of learning rates process."""
    trials = len(training.learning_rates) if len(training.learning_rates) > 1 else 0
    steps = training.updates(samples)
    return arms * training.batch_size * (steps + trials * training.trial_updates(steps))


def _labeled(cards: Mapping[str, ExpertCard], store: str | None, samples: int) -> bool:
    """Return True if every sample has a label, or a recorded failure, in each of the columns."""
    counts = {column.name: column.manifest.counts for column in Store(store).columns()} if store else {}
    recorded = [counts.get(card.column if ":" in name else name) for name, card in cards.items()]
    return all(count is not None and count.labels + count.failures >= samples for count in recorded)


def _head(path: Path, measured: bool, images: int, gpu: bool, labeled: bool) -> str:
    """Return the comment at the top: the command, its time and its result."""
    verb, who, expected = (
        ("run", "both trained arms process", "a page that compares the three arms")
        if measured
        else ("train", "the training processes", "a student, not measured")
    )
    lasts = (
        f": {_hours(images)} at {MEASURED:,} images/s, measured on one H100\n# with ViT-B-16 and three heads"
        if gpu
        else "; on a CPU, the speed of the first\n# steps shows how long that takes"
    )
    before = "" if labeled else "; labeling comes first"
    return (
        f"# clipzoo {verb} {shlex.quote(_quoted(str(path))[1:-1])}     (add --dry-run to see what it would do)\n"
        f"# {who} {counted(images, 'image')} in total{lasts}{before}. Expected: {expected}"
    )


def _data(data: Data) -> str:
    """Return the field ``data``: a location, or a list of datasets."""
    note = f"  # {counted(data.samples, 'usable sample')}; the dataset is never changed"
    named = several.separate(data.location)
    if named is None:
        return f"data: {_quoted(data.location)}{note}"
    lines = [f"  - {{data: {_quoted(place)}, name: {_quoted(name)}, weight: 1}}" for name, place in named.items()]
    return "\n".join([f"data:{note}", *lines, "  # a sample of weight 2 is seen twice as often as one of weight 1"])


def _store(store: str | None) -> str:
    return f"store: {_quoted(store)}  # existing labels are used, missing ones are added\n" if store else ""


def _weights(start: Start) -> str:
    if start.random:
        return "\n  random: true"
    return f"\n  pretrained: {_quoted(start.pretrained)}" if start.pretrained else ""


def _columns(cards: Mapping[str, ExpertCard]) -> str:
    head = "columns:  # weights are relative to the contrastive loss (weight 1): lower those that reduce zero-shot"
    lines = [
        f"  - {{{'expert' if ':' in name else 'column'}: {_quoted(name)}, weight: 1.0, "
        f"head: {get_task(card.task).head}, stride: 4}}  # {card.task}"
        for name, card in cards.items()
    ]
    return "\n".join([head, *lines])


def _evaluation(splits: Mapping[str, str], layers: Sequence[int]) -> str:
    if not splits:
        return (
            "# evaluation: {probe: bench/probe, validation: bench/validation, test: bench/test}  # docs/benchmarks.md"
        )
    places = [f"  {split}: {_quoted(place)}" for split, place in splits.items()]
    return "\n".join(["evaluation:", *places, f"  layers: {list(layers)}"])


def _hours(images: int) -> str:
    minutes = images / MEASURED / 60
    return f"about {minutes / 60:,.1f} hours" if minutes >= 90 else f"about {minutes:.1f} minutes"


@torch.no_grad()
def _layers(student: Student) -> tuple[int, ...]:
    """Return the middle and the last of equal blocks, or the last two stages of a pyramid."""
    image = student.normalize(torch.zeros(1, *student.image_size, 3, dtype=torch.uint8))
    maps = student.eval().clip.forward_intermediates(image, image_output_fmt="NCHW")["image_intermediates"]
    last = len(maps) - 1
    return (last // 2 if len({m.shape for m in maps}) == 1 else max(last - 1, 0), last)


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in left_out.items())
