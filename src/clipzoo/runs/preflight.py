"""Mistakes of a recipe that a look at its places finds: told now, not when hours of labeling are over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

from clipzoo import demo
from clipzoo.benchmarks import Benchmark, check_meaning, open_benchmark
from clipzoo.errors import ClipzooError, PlanError, RecipeError
from clipzoo.files import Place
from clipzoo.plugins import hint
from clipzoo.readers import Location, fingerprint, open_dataset
from clipzoo.recipe import Recipe

REPORTED = ("test", "heldout")
SPLITS = ("probe", "validation", *REPORTED)
TRAINED = ("clip-ft", "clipzoo")
"""Arms that are trained; ``clip`` is the model as it came."""

Looked = tuple[list[Place], Mapping[str, Any]]
"""The folders of which a dataset is all, and its fingerprint."""


def check_arm(arm: str, to: str, known: Sequence[str] = TRAINED) -> None:
    """Raise `RecipeError` unless there is such an arm ``to`` do something with."""
    if arm not in known:
        raise RecipeError(f"there is no arm {arm!r} to {to}; {hint(arm, known)}")


def check_split(split: str, location: str, layout: str = "webdataset") -> Benchmark | None:
    """The benchmark in ``location``, for this part of evaluation; None of a packaged one.

    Raises:
        RecipeError: it is no benchmark folder of this layout.
    """
    if demo.check(location):
        return None
    if location.startswith(("http://", "https://")):
        raise RecipeError(
            f"evaluation.{split} is {location!r}, and a web server has no folders; copy it to a disk, or to a bucket"
        )
    try:
        return open_benchmark(location, layout)
    except ClipzooError as error:
        raise RecipeError(f"evaluation.{split} is {location!r}, which cannot be measured on: {error}") from error


def check_splits(recipe: Recipe) -> None:
    """Raise `RecipeError` unless every split is there, shares no pictures with another one or with ``data``, and has
    true labels that mean what those of the others do.
    """
    wanted = recipe.evaluation
    places = {split: location for split in SPLITS if (location := getattr(wanted, split))}
    found = {split: check_split(split, location, wanted.layout) for split, location in places.items()}
    look = cache(lambda name: _look_at(found[name]) if name in found else _look(recipe.data))
    for one, other in combinations(["data", *places], 2):
        mine, theirs = ({"data": recipe.data} | places)[one], places[other]
        if demo.shared(mine, theirs) or _shared(look(one), look(other)):
            raise RecipeError(
                f"evaluation.{other} is {theirs!r}, whose images are those of {'evaluation.' * (one != 'data')}{one}, "
                f"{mine!r}: a student may not be measured on what it, or its probe, was trained or chosen on; give "
                "pictures of their own"
            )
    meant = {s: demo.meanings(places[s]) if one is None else one.conventions for s, one in found.items()}
    try:
        check_meaning({f"evaluation.{split}": conventions for split, conventions in meant.items()})
    except PlanError as error:
        raise RecipeError(str(error)) from error


def _look(location: str) -> Looked | None:
    """None of packaged data, whose names tell it apart."""
    if demo.check(location):
        return None
    found = demo.locate_data(location, Path())
    folders = [folder.resolve() for folder in Location.parse(found).whole]
    return folders, fingerprint(open_dataset(found))


def _look_at(benchmark: Benchmark | None) -> Looked | None:
    if benchmark is None:
        return None
    return [folder.resolve() for folder in benchmark.reader.folders], fingerprint(benchmark.reader)


def _shared(one: Looked | None, other: Looked | None) -> bool:
    """Whether two datasets are equal, or one lies within the other."""
    if one is None or other is None:
        return False
    pairs = [*product(one[0], other[0]), *product(other[0], one[0])]
    return one[1] == other[1] or any(a == b or a in b.parents for a, b in pairs)


def check_places(recipe: Recipe, file: Path) -> None:
    """Raise `RecipeError` if places of a recipe that are not found from here are found beside its ``file``."""
    beside = file.resolve().parent
    wrong = [
        f"  {name}: there is {beside / text}, but no {Path(text).absolute()}"
        for name, text in _places(recipe)
        if not Path(text).exists() and (beside / text).exists()
    ]
    if wrong:
        raise RecipeError(
            f"places in a recipe count from the folder in which clipzoo is started, not from that of {file}:\n"
            + "\n".join(wrong)
            + f"\nStart it in {beside}, or write those places as they are seen from here"
        )


def _places(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(field, path) of what names something on this disk; of a pattern, the folder that it begins with."""
    named = {f"evaluation.{split}": getattr(recipe.evaluation, split) for split in SPLITS}
    named |= {"data": recipe.data, "store": recipe.store}
    for name, text in named.items():
        if text and ":" not in text:
            yield name, re.split(r"[*?{\[]", text, maxsplit=1)[0] or "."
    if recipe.student.model.startswith("local-dir:"):
        yield "student.model", recipe.student.model.removeprefix("local-dir:")
    for number, column in enumerate(recipe.columns):
        path = (column.expert or "").partition(":")[2].partition("?")[0]
        if "/" in path or "." in path:
            yield f"columns.{number}.expert", path
