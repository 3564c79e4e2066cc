"""Classification of images by their frozen embeddings, one preset per file; `clipzoo eval --preset` runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from clipzoo import files
from clipzoo.benchmarks import Split
from clipzoo.errors import RecipeError, counted
from clipzoo.evaluation.base import Encoder
from clipzoo.evaluation.classification import knn, linear_classification
from clipzoo.evaluation.classification.base import Classification, Fitted
from clipzoo.evaluation.classification.cache import Features, cached
from clipzoo.evaluation.measure import Scored, rows

__all__ = ["PRESETS", "Classification", "Features", "cached", "check_classes", "evaluate", "protocol", "unseen"]

PRESETS = {one.PRESET.name: one.PRESET for one in (knn, linear_classification)}
"""Name on the command line -> preset."""


def evaluate(
    preset: Classification,
    model: Encoder,
    splits: Mapping[str, Split],
    folder: Path,
    step: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, dict[str, Scored]]:
    """Return split -> group -> scores of every split but ``probe`` and ``validation``.

    Args:
        preset: one of `PRESETS`.
        model: the encoder; stays frozen.
        splits: with classes; ``probe`` fits, and ``validation``, if there is one, chooses the strength.
        folder: of the features on disk, which a later call uses again, and of the chosen settings, ``<group>.json``.
        step: called with a name, and the done and total number of images or fits.

    Raises:
        RecipeError: a split has no classes, or other classes than ``probe``.
        CheckpointError: an embedding is not finite.
    """
    check_classes({name: split.classnames for name, split in splits.items()})
    for name, split in splits.items():
        if not split.targets:
            raise _unclassified(name)
    features = {name: cached(model, split, folder / name, step) for name, split in splits.items()}
    fitted = preset.fit(features["probe"], features.get("validation"), len(splits["probe"].classnames), step)
    if fitted.chosen:
        files.write(folder / f"{preset.group}.json", json.dumps(fitted.chosen, indent=1).encode())
    reported = [name for name in splits if name not in ("probe", "validation")]
    return {name: {preset.group: _scored(preset, fitted, splits[name], features[name])} for name in reported}


def unseen(splits: Mapping[str, Split], reported: Sequence[str]) -> list[str]:
    """Return sentences on classes of reported splits that a classifier cannot know, since no other split has images."""
    seen = {target for name, split in splits.items() if name not in reported for target in split.targets}
    sentences = []
    for name in reported:
        missed = sorted(splits[name].classnames[target] for target in {*splits[name].targets} - seen)
        if missed:
            number = counted(len(missed), "class", "classes")
            sentences.append(f"{number} of --{name} without a training image, always missed: {', '.join(missed[:10])}")
    return sentences


def protocol(preset: Classification) -> dict[str, object]:
    """Return the settings of a preset for ``results.json``."""
    return {name: value for name, value in asdict(preset).items() if value not in ((), "")}


def _scored(preset: Classification, fitted: Fitted, split: Split, features: Features) -> Scored:
    def each() -> Iterator[object]:
        for part, _ in features.parts():
            yield from fitted.predict(part)

    return Scored(preset.group, split.keys, rows(preset.metric, each(), split.targets), preset.metric)


def check_classes(classnames: Mapping[str, Sequence[str]]) -> None:
    """Raise `RecipeError` unless all splits have the classes of ``probe``; ``classnames`` maps splits to theirs."""
    names = classnames["probe"]
    for split, others in classnames.items():
        if not others:
            raise _unclassified(split)
        if others != names:
            pairs = zip(names, others, strict=False)
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(names), len(others)))
            first, second = (one[place] if place < len(one) else "missing" for one in (names, others))
            raise RecipeError(
                f"--probe has {len(names)} classes and --{split} has {len(others)}; class {place} is {first} and "
                f"{second}. An index must mean the same class in both. Give benchmarks with the names or folders of "
                "all classes in both"
            )


def _unclassified(split: str) -> RecipeError:
    return RecipeError(
        f"the images of --{split} have no classes, which this preset needs. Give a benchmark with classes, such as "
        "imagefolder:PATH, places365:PATH, or shards with .cls and classnames.txt"
    )
