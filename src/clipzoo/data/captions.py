"""Captions of several fields: which one training draws, and the check that a dataset has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from clipzoo import plugins
from clipzoo.errors import RecipeError, SampleError
from clipzoo.readers import Reader, spread
from clipzoo.readers.joined import Joined
from clipzoo.types import Sample

SHARDS, SAMPLES = 3, 64
"""Shards of a dataset, and samples of each, that are searched for the fields."""


def draw_caption(sample: Sample, rng: np.random.Generator, captions: Mapping[str, float]) -> str:
    """Return one of the sample's captions; a single caption uses no random number.

    Args:
        sample: its ``fields`` have texts of the fields in ``captions``.
        rng: of the sample and epoch.
        captions: field -> its weight among the fields that the sample has. If it has none of them, one of all its
            captions is drawn.
    """
    present = [name for name in captions if name in sample.fields]
    texts: Sequence[str] = (sample.caption, *sample.others)
    if present:
        ends = np.cumsum([captions[name] for name in present])
        drawn = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        texts = sample.fields[present[min(drawn, len(present) - 1)]]
    return texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]


def check_captions(captions: Mapping[str, float], reader: Reader) -> None:
    """Raise `RecipeError` if none of the samples that are inspected has one of the fields ``captions``."""
    found, samples = Counter[str](), 0
    if not captions:
        return
    for part in reader.readers.values() if isinstance(reader, Joined) else [reader]:
        for shard in spread(part.shards, SHARDS):
            for entry in spread([one for one in part.index(shard) if not one.failure], SAMPLES):
                samples += 1
                try:
                    found.update(part.fields(entry).keys())
                except SampleError:  # training counts samples that cannot be read
                    continue
    missing = [name for name in captions if not found[name]]
    if missing and samples:
        shares = ", ".join(f"{name} ({count / samples:.0%})" for name, count in found.most_common(20)) or "none"
        raise RecipeError(
            f"training.captions has {missing[0]!r}, but none of {samples:,} inspected samples of {reader.location} has "
            f"text in a field of this name; {plugins.hint(missing[0], sorted(found))}. Fields with text, and the share "
            f"of samples that have them: {shares}"
        )
