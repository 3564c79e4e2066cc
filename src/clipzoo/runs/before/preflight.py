"""Preflight checks: mistakes of a recipe that are found before hours of labeling and training."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from clipzoo import locations
from clipzoo.benchmarks import Benchmark, check_meaning, open_benchmark
from clipzoo.errors import ClipzooError, PlanError, RecipeError, counted
from clipzoo.evaluation import open_vocabulary
from clipzoo.files import Place
from clipzoo.plugins import hint
from clipzoo.readers import Location, Reader, fingerprint, open_dataset
from clipzoo.recipe import Recipe

REPORTED = ("test", "heldout")
SPLITS = ("probe", "validation", *REPORTED)
TRAINED = ("clip-ft", "clipzoo")
"""Arms that are trained; ``clip`` is the pretrained model."""
Naming = Callable[[str], str]
"""The name of a split -> the field or option that gives its location."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a dataset or split.

    Attributes:
        folders: those of which everything is read.
        fingerprint: of the reader.
        files: files that are listed one by one: pictures, tars or tables.
        named: returns the paths of the picture files that rows of a table name.
    """

    folders: Sequence[Place]
    fingerprint: Mapping[str, object]
    files: frozenset[Place] = frozenset()
    named: Callable[[], Iterable[str]] = tuple

    def overlap(self, other: Pictures) -> bool:
        """Return True if two datasets are equal, one contains the other, or both have a common file."""
        if self.fingerprint == other.fingerprint or self.files & other.files:
            return True
        if self._holds(other) or other._holds(self) or self._names(other) or other._names(self):
            return True
        pairs = [(one, two) for one in self.folders for two in other.folders]
        return any(one == two or one in two.parents or two in one.parents for one, two in pairs)

    def _holds(self, other: Pictures) -> bool:
        """Return True if a folder that is read as a whole has a file that the other dataset lists."""
        return any(folder in file.parents for folder in self.folders for file in other.files)

    def _names(self, other: Pictures) -> bool:
        """Return True if a row of a table names a file that the other dataset reads."""
        whole, single = {str(folder) for folder in other.folders}, {str(file) for file in other.files}
        parents = {str(file.parent) for file in other.files}
        known: dict[str, tuple[str, bool]] = {}  # folder -> its real path, and True if everything in it is read
        for path in self.named() if whole or single else ():
            folder, name = os.path.split(path)
            if folder not in known:
                real = os.path.realpath(folder)
                known[folder] = real, any(real == one or real.startswith(one + os.sep) for one in whole)
            real, inside = known[folder]
            if inside or (real in parents and f"{real}{os.sep}{name}" in single):
                return True
        return False


def pick_device(wanted: str = "auto") -> str:
    """Return a device as torch names it; ``auto`` is the first GPU, else the CPU.

    Raises:
        RecipeError: this machine has no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not _exists(wanted):
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise RecipeError(f"--device: this machine has no device {wanted!r}; use auto or one of {', '.join(available)}")
    return wanted


def _exists(name: str) -> bool:
    """Return True if this machine has a device; nothing is allocated: processes ask before they have their GPU."""
    try:
        device = torch.device(name)
        if device.type == "cuda":
            return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch that was built without the device raises AssertionError
        return False
    return True


def check_arm(arm: str, verb: str, known: Sequence[str] = TRAINED, there: Sequence[str] = ()) -> None:
    """Raise `RecipeError` unless an arm is one of ``known``, those that can be trained, exported, …

    The error names the arms that the run has: ``there``, by default all that are known.
    """
    if arm not in known:
        raise RecipeError(f"there is no arm {arm!r} to {verb}; {hint(arm, there or known)}")


def check_trainable(arm: str, recipe: Recipe) -> None:
    """Raise `RecipeError` unless an arm of a recipe can be trained, and one of its losses has a weight."""
    check_arm(arm, "train", (*TRAINED, *recipe.named_arms))
    columns = recipe.columns if arm == "clipzoo" else ()
    if arm in TRAINED and not recipe.training.contrastive_weight and not any(column.weight for column in columns):
        raise RecipeError(
            f"training.contrastive_weight is 0, but the arm {arm} has no other loss with a weight: give it a weight, "
            "or train another arm"
        )


def check_batch(recipe: Recipe, samples: int) -> None:
    """Raise `PlanError` unless the samples fill a batch."""
    size = recipe.training.batch_size
    if samples < size:
        raise PlanError(
            f"{recipe.location} has {counted(samples, 'usable sample')}, fewer than one batch of {size}: lower "
            f"training.batch_size to at most {samples}"
        )


def check_dataset(recipe: Recipe, reader: Reader) -> None:
    """Raise `PlanError` unless the dataset fills a batch; no more shards are indexed than this needs."""
    found, most = 0, recipe.max_samples or math.inf
    for shard in reader.shards:
        found += sum(entry.failure is None for entry in reader.index(shard))
        if min(found, most) >= recipe.training.batch_size:
            return
    check_batch(recipe, int(min(found, most)))


def check_measurable(recipe: Recipe) -> None:
    """Raise `RecipeError` if a recipe has no benchmark to measure its arms on."""
    if recipe.evaluation.test is None:
        raise RecipeError(
            "evaluation.test is not set: arms cannot be measured without a benchmark. Set it to a benchmark folder "
            "(docs/benchmarks.md), or train without measuring: clipzoo train"
        )


def _field(split: str) -> str:
    """Return the recipe's field of ``data`` (or a dataset of its list), a split, or the guard's benchmark."""
    if split.startswith("data"):
        return split
    return {"guard": "training.guard.benchmark"}.get(split, f"evaluation.{split}")


def option(split: str) -> str:
    """Return the option of the command line for a split."""
    return f"--{split}"


def check_split(split: str, location: str, layout: str = "webdataset", field: Naming = _field) -> Benchmark | None:
    """Return the benchmark at the location of a split; None if a plugin provides it. ``field`` names it in messages.

    Raises:
        RecipeError: the location is not a benchmark folder of this layout.
    """
    if locations.provided(location):
        return None
    if location.startswith(("http://", "https://")):
        raise RecipeError(
            f"{field(split)} is {location!r}, which is on a web server, where folders cannot be listed: copy "
            "it to a disk or a bucket"
        )
    try:
        return open_benchmark(location, layout)
    except ClipzooError as error:
        raise RecipeError(f"{field(split)} is {location!r}, which is not a benchmark folder: {error}") from error


def check_splits(recipe: Recipe, measured: Collection[str] = SPLITS) -> None:
    """Check that every split exists, shares no pictures with another or with ``data``, and has comparable labels.

    The true labels of splits that are not ``measured``, and those of the guard's benchmark, are not used, so they may
    differ.

    Raises:
        RecipeError: one of these is not so.
    """
    evaluation = recipe.evaluation
    places = {split: getattr(evaluation, split) for split in SPLITS if getattr(evaluation, split)}
    if recipe.training.guard and recipe.training.guard.benchmark:
        places["guard"] = recipe.training.guard.benchmark
    check_locations(places, evaluation.layout, _data(recipe), measured=measured)


def check_prompted(recipe: Recipe) -> None:
    """Raise `RecipeError` if open vocabulary is to be measured and the test benchmark has no named classes."""
    place = recipe.evaluation.test
    if recipe.evaluation.open_vocabulary is None:
        return
    if place is None:
        raise open_vocabulary.unmeasurable()
    benchmark = check_split("test", place, recipe.evaluation.layout)
    if not open_vocabulary.named(locations.conventions(place) if benchmark is None else benchmark.conventions):
        raise open_vocabulary.unmeasurable()


def _data(recipe: Recipe) -> dict[str, str]:
    """Return field -> location of the datasets of ``data``."""
    if isinstance(recipe.data, str):
        named = locations.datasets(recipe.data)
        return {f"data ({name})": place for name, place in named.items()} or {"data": recipe.data}
    return {f"data.{number}": one.data for number, one in enumerate(recipe.data)}


def check_locations(
    places: Mapping[str, str],
    layout: str = "webdataset",
    data: Mapping[str, str] | None = None,
    field: Naming = _field,
    measured: Collection[str] = SPLITS,
) -> None:
    """Check split -> location of benchmarks, and field -> location of training data, as `check_splits` does."""
    benchmarks = {split: check_split(split, place, layout, field) for split, place in places.items()}
    pictures = {split: _of_benchmark(benchmark) for split, benchmark in benchmarks.items()}
    trained = {name: _of_dataset(location) for name, location in (data or {}).items()} if places else {}
    for name, one in trained.items():
        _check_apart({name: (data or {})[name], **places}, {name: one, **pictures}, field)
    if not trained:
        _check_apart(places, pictures, field)
    meanings = {
        field(split): locations.conventions(places[split]) if benchmark is None else benchmark.conventions
        for split, benchmark in benchmarks.items()
        if split in measured
    }
    try:
        check_meaning(meanings)
    except PlanError as error:
        raise RecipeError(str(error)) from error


def _check_apart(places: Mapping[str, str], pictures: Mapping[str, Pictures | None], field: Naming) -> None:
    """Raise `RecipeError` if two of ``data`` and the splits have pictures in common."""
    for one, other in combinations(places, 2):
        mine, theirs = pictures[one], pictures[other]
        shared = mine.overlap(theirs) if mine and theirs else locations.share_pictures(places[one], places[other])
        if shared:
            raise RecipeError(
                f"{field(other)} is {places[other]!r}, whose images are those of {field(one)}, {places[one]!r}. "
                "Scores on pictures that a student or probe was trained or chosen on mean nothing: give each its own "
                "pictures"
            )


def _of_dataset(location: str) -> Pictures | None:
    """Return the pictures of a dataset; None if a plugin provides it, which compares locations itself."""
    if locations.provided(location):
        return None
    found = locations.resolve_data(location, Path())
    reader, parsed = open_dataset(found), Location.parse(found)
    one_by_one = () if parsed.whole or parsed.options.get("format") == "joined" else parsed.files()
    return Pictures(
        [folder.resolve() for folder in parsed.whole],
        fingerprint(reader),
        frozenset(file.resolve() for file in one_by_one),
        lambda: (path for shard in reader.shards for path in reader.named_files(shard)),
    )


def _of_benchmark(benchmark: Benchmark | None) -> Pictures | None:
    if benchmark is None:
        return None
    reader = benchmark.reader
    if set(benchmark.shards) < set(reader.shards):  # only test/ of images/ in CLIP_benchmark's layout
        return Pictures((), fingerprint(reader), benchmark.pictures | {place.resolve() for place in benchmark.places})
    return Pictures([folder.resolve() for folder in reader.folders], fingerprint(reader), benchmark.pictures)


def check_places(recipe: Recipe, file: Path) -> None:
    """Check that paths of a recipe are relative to the working folder, not to the recipe.

    Raises:
        RecipeError: a path does not exist here, but exists next to the recipe's ``file``.
    """
    folder = file.resolve().parent
    wrong = [
        f"  {name}: {Path(text).absolute()} does not exist, but {folder / text} does"
        for name, text in _places(recipe)
        if not Path(text).exists() and (folder / text).exists()
    ]
    if wrong:
        raise RecipeError(
            f"paths in {file} are relative to the folder in which clipzoo is started, not to the recipe:\n"
            + "\n".join(wrong)
            + f"\nStart clipzoo in {folder}, or change these paths"
        )


def _places(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield (field, path) of everything that a recipe names on this disk; of a pattern, the folder before it."""
    named = {f"evaluation.{split}": getattr(recipe.evaluation, split) for split in SPLITS}
    named |= {**_data(recipe), "store": recipe.store}
    for name, text in named.items():
        if text and ":" not in text:
            yield name, re.split(r"[*?{\[]", text, maxsplit=1)[0] or "."
    if recipe.student.model.startswith("local-dir:"):
        yield "student.model", recipe.student.model.removeprefix("local-dir:")
    for number, column in enumerate(recipe.columns):
        path = (column.expert or "").partition(":")[2].partition("?")[0]
        if (file := path.rpartition(":")[0]).endswith(".py"):  # python:PATH/file.py:Class
            path = file
        if "/" in path or "." in path:
            yield f"columns.{number}.expert", path
