"""Labels that exist, as a column: ``label`` with an expert that looks up, and a word on which samples matched."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from clipzoo import experts
from clipzoo.errors import MAX_FAILURES, ExpertError, SampleError
from clipzoo.experts._answers import FORMATS
from clipzoo.files import AnyPath, Place
from clipzoo.importers.base import KeyedExpert
from clipzoo.labeling.engine import ColumnReport, label
from clipzoo.readers import open_dataset


@dataclass(frozen=True, slots=True)
class Imported:
    """A column, how many samples the dataset has, and of how many there is a label to be found."""

    column: ColumnReport
    samples: int
    matched: int


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
) -> Imported:
    """Labels that exist, as a column of a store.

    Args:
        data: the dataset, as `label` takes it.
        source: the folder, file or address of the labels.
        format: one of `FORMATS`.
        answers: what the format leaves open: question -> answer, as in the URI of its expert; ``as`` names the column.
        out: the store.
        max_failures: the share of samples that may lack a label, or have one that cannot be used.
        retry_failed: look again for what was missing or unsound in earlier runs, though no file has changed.
        progress: show a progress bar on standard error.

    Raises:
        ExpertError: a question is open, no sample has a label, too many have none, or two have one and the same.
        DatasetError, StoreError: as `label`.
    """
    data, source = os.fspath(data), os.fspath(source)
    if format not in FORMATS:
        raise ExpertError(f"format {format!r}: there are {', '.join(FORMATS)}; predictions are made by clipzoo label")
    told = "&".join(f"{name}={quote(value, safe='/,@#:. ')}" for name, value in answers.items())
    expert = experts.create(f"{format}:{source}" + (f"?{told}" if told else ""))
    assert isinstance(expert, KeyedExpert)
    samples, matched = _match(data, expert, max_failures)
    (column,) = label(
        data, [expert], out, device="cpu", max_failures=max_failures, retry_failed=retry_failed, progress=progress
    )
    return Imported(column, samples, matched)


def _match(data: str, expert: KeyedExpert, allowed: float) -> tuple[int, int]:
    """(samples of the dataset, samples that have a label)."""
    reader = open_dataset(data)
    samples, without = 0, list[str]()
    owners: dict[str, tuple[str, str]] = {}
    for own in ((shard, entry.key) for shard in reader.shards for entry in reader.index(shard) if entry.error is None):
        samples += 1
        place = _place(expert, own[1])
        if place is None:
            without = [*without, own[1]][:3]
        elif owners.setdefault(place, own) != own:
            raise ExpertError(_twice(place, owners[place], own))
    if not owners or samples - len(owners) > allowed * samples:
        raise ExpertError(_too_few(data, expert, samples, len(owners), without, allowed))
    return samples, len(owners)


def _too_few(data: str, expert: KeyedExpert, samples: int, matched: int, without: list[str], allowed: float) -> str:
    """What is wrong where few of the samples, or none, have a label; ``without`` are keys of some that have none."""
    lack = samples - matched
    who, more = f"none of {samples} samples of {data!r} has a label in {expert.card.uri}", ""
    if matched:
        who = f"{lack} of {samples} samples of {data!r} have no label in {expert.card.uri}, more than "
        who += f"max_failures={allowed:g} allows"
        more = f". If so many are meant to have none: --max-failures {math.ceil(100 * lack / samples)}%"
    return (
        f"{who}; their keys are as {', '.join(map(repr, without)) or 'none'}: compare them with the labels' names, and "
        f"choose match= or suffix= where the format has them{more}"
    )


def _twice(place: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    """What is wrong with two samples, each (shard, key), of one label."""
    (shard, key), (other_shard, other_key) = one, other
    if key != other_key:
        return (
            f"the samples {key!r} and {other_key!r} would both get the label {place!r}; match by whole keys: "
            "match=key, with the labels' names as the keys are"
        )
    return (
        f"the samples {key!r} of the shards {shard!r} and {other_shard!r} would both get the label {place!r}; labels "
        "need keys that differ over all shards: give the samples such (tables by ?key=), or label by one shard each"
    )


def _place(expert: KeyedExpert, key: str) -> str | None:
    """Where a sample's label is; None if there is none, or the key is no name that a label could have."""
    try:
        return expert.place(key)
    except (SampleError, OSError):
        return None
