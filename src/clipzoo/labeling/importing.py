"""Import of existing labels as a column: `label` with an importer, and a count of matched samples."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

from clipzoo import importers
from clipzoo.errors import MAX_FAILURES, ExpertError
from clipzoo.files import AnyPath, Place
from clipzoo.importers import Importer
from clipzoo.labeling._budget import check_share
from clipzoo.labeling._matching import Places, usable_keys
from clipzoo.labeling.engine import ColumnReport, label
from clipzoo.locations import open_dataset
from clipzoo.plugins import hint


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported column, the number of samples in the dataset, and the number of those with a label.

    ``notes`` maps repairs and suspicious values of labels in this run to their counts.
    """

    column: ColumnReport
    samples: int
    matched: int
    notes: Mapping[str, int] = field(default_factory=dict)


def import_labels(
    data: AnyPath,
    source: AnyPath,
    format: str,
    answers: Mapping[str, str],
    out: AnyPath | Place,
    *,
    max_failures: float = MAX_FAILURES,
    retry_failed: bool = False,
    progress: bool = True,
    codec: str | None = None,
) -> Imported:
    """Import existing labels as a column of a store.

    Args:
        data: the dataset; see `label`.
        source: the folder, file or address of the labels.
        format: a name of `importers.PLUGINS`.
        answers: question -> answer, as in the URI of the format's expert; ``as`` names the column.
        out: the store.
        max_failures: the share of samples that may have no usable label.
        retry_failed: read labels again that were missing or unsound, also if no file has changed.
        progress: show a progress bar on standard error.
        codec: see `label`.

    Raises:
        ExpertError: an answer is missing, no sample has a label, too many have none, or two samples share a label.
        DatasetError, StoreError: see `label`.
    """
    check_share(max_failures)
    data, source = os.fspath(data), os.fspath(source)
    formats = importers.PLUGINS.names()
    if format not in formats:
        raise ExpertError(
            f"there is no import format {format!r} (--format; for predictions use clipzoo label); "
            f"{hint(format, formats)}"
        )
    query = "&".join(f"{name}={quote(value, safe='/,@#:. ')}" for name, value in answers.items())
    expert = importers.create(format, source + (f"?{query}" if query else ""))
    samples, matched = _match(data, expert, max_failures)
    (column,) = label(
        data, [expert], out, device="cpu", max_failures=max_failures, retry_failed=retry_failed, progress=progress,
        codec=codec,
    )  # fmt: skip
    return Imported(column, samples, matched, dict(expert.notes))


def _match(data: str, expert: Importer, allowed: float) -> tuple[int, int]:
    """Return (samples of the dataset, samples with a label), after a check that no two samples share a label."""
    reader, places = open_dataset(data), Places(expert)
    samples, without = 0, list[str]()
    for shard in reader.shards:
        keys = usable_keys(reader, shard)
        samples += len(keys)
        without = [*without, *places.add(shard, keys)][:3]
    places.check(partial(usable_keys, reader))
    expert.distinct = True
    if not len(places) or samples - len(places) > allowed * samples:
        raise ExpertError(_too_few(data, expert, samples, len(places), without, allowed))
    return samples, len(places)


def _too_few(data: str, expert: Importer, samples: int, matched: int, without: list[str], allowed: float) -> str:
    """Return the error for too few samples with a label; ``without`` are keys of some without."""
    if not samples:
        return f"{data!r} has no usable samples; `clipzoo check` shows why"
    missing = samples - matched
    what, more = f"none of {samples} samples of {data!r} has a label in {expert.card.uri}", ""
    if matched:
        what = f"{missing} of {samples} samples of {data!r} have no label in {expert.card.uri}, more than "
        what += f"max_failures={allowed:g} allows"
        more = f". If that is intended: --max-failures {math.ceil(100 * missing / samples)}%"
    hint = expert.hint(without) or "compare them with the names of the labels, and set match=, suffix= or pattern="
    return f"{what}. Examples of their keys: {', '.join(map(repr, without))}: {hint}{more}"
