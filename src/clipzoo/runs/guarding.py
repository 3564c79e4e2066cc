"""The images on which the guard measures: a benchmark, validation, or captioned samples held out of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from clipzoo.benchmarks import Crop, Split, read_split, split_of
from clipzoo.data import Plan, entry_of
from clipzoo.errors import PlanError, RecipeError, SampleError, shell_word
from clipzoo.evaluation import retrieval, zero_shot
from clipzoo.evaluation.base import Encoder
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.suite import Suite
from clipzoo.models import Student
from clipzoo.recipe import GuardRecipe
from clipzoo.runs.inputs import Inputs
from clipzoo.training import Recognition
from clipzoo.types import decode_image

HELD = 0.1
"""Largest share of the samples that is held out of training."""
SPARE = 20
"""Most rows that are drawn for each held-out sample in place of samples that cannot be read."""


def held(settings: GuardRecipe, samples: int) -> int:
    """Return the number of samples that are held out of training, if the guard has no benchmark."""
    return max(min(settings.samples, int(HELD * samples)), 1)


def recognition(settings: GuardRecipe, inputs: Inputs, suite: Suite, crop: Crop) -> tuple[Recognition, Plan]:
    """Return the measure of a recipe's guard, and the plan to train on.

    The subset is drawn once, from a fixed seed: zero-shot top-1 on images with classes, else retrieval recall@1 on
    images with captions.
    """
    plan = inputs.plan
    if settings.benchmark is not None:
        split = replace(read_split(inputs.benchmark(settings.benchmark), suite.size), crop=crop)
        if not split.targets and not any(split.captions):
            raise RecipeError(
                f"training.guard.benchmark is {settings.benchmark!r}, whose images have neither classes nor captions. "
                "Give a benchmark with classnames.txt and a .cls of each image, or with captions"
            )
    elif "validation" in suite.zero_shot:
        split = suite.zero_shot["validation"]
    elif "validation" in suite.retrieval:
        split = suite.retrieval["validation"]
    else:
        split, plan = _held_out(settings, inputs, suite, crop)
    if split.targets:
        return _measure(zero_shot.evaluate, "zero_shot/top1", _subset(split, settings.samples)), plan
    return _measure(retrieval.evaluate, "retrieval/r1", _subset(split.captioned(), settings.samples)), plan


def _measure(evaluate: Callable[[Encoder, Split], Scored], name: str, split: Split) -> Recognition:
    def measure(student: Student) -> float:
        return evaluate(student, split).compute()[name]

    return Recognition(name, len(split), measure)


def _subset(split: Split, samples: int) -> Split:
    return split if len(split) <= samples else split.select(_rows(len(split), samples))


def _rows(count: int, samples: int) -> list[int]:
    rows: list[int] = np.sort(np.random.default_rng(0).choice(count, samples, replace=False)).tolist()
    return rows


def _held_out(settings: GuardRecipe, inputs: Inputs, suite: Suite, crop: Crop) -> tuple[Split, Plan]:
    """Return captioned samples of the dataset, and the plan without them.

    Samples that cannot be read stay in the plan, and others take their place.
    """
    plan, reader = inputs.plan, inputs.reader
    count = held(settings, len(plan))
    if count < settings.samples:
        inputs.progress.stage(
            f"the guard measures {count:,} captioned samples, a tenth of the data, instead of {settings.samples:,} "
            "(training.guard.samples)"
        )
    captions: dict[int, tuple[str, ...]] = {}
    for row in _candidates(len(plan), count):
        with suppress(SampleError):
            sample = reader.read(entry_of(plan.rows([row])[0]))
            decode_image(sample.image)
            captions[row] = (sample.caption, *sample.others)
        if len(captions) == count:
            break
    if not captions:
        raise PlanError(
            "the guard holds samples of data out of training, but none of those that it drew can be read; `clipzoo "
            f"check {shell_word(inputs.recipe.location)}` reports the reasons. Give training.guard.benchmark, or set "
            "training.guard to null"
        )
    rows = sorted(captions)
    entries = [entry_of(row) for row in plan.rows(rows)]
    split = split_of(reader, entries, {}, suite.size)
    return replace(split, captions=tuple(captions[row] for row in rows), crop=crop), plan.without(rows)


def _candidates(total: int, count: int) -> Iterator[int]:
    """Yield the rows to hold out, then others at random, of which each is drawn once."""
    first = _rows(total, count)
    yield from first
    generator, drawn = np.random.default_rng(1), set(first)
    for row in generator.integers(total, size=SPARE * count).tolist():
        if row not in drawn:
            drawn.add(row)
            yield row
