"""Classes and series of the samples, read from keys, fields and members."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipzoo.checking import Findings
from clipzoo.checking.groups import SERIES, Roots, linked
from clipzoo.errors import DatasetError, SampleError, counted
from clipzoo.readers import Entry, Reader
from clipzoo.splitting.parts import FOLDER, HELDOUT, PARTS, TRAIN, Options, assign, sizes

MISSING = -1
"""The class of a sample without one."""


@dataclass
class Labeled:
    """The classes and the groups of the usable samples.

    Attributes:
        roots: for each sample, the index of the first sample of its group.
        classes: for each sample, the index of its class; `MISSING` without one, 0 if there are no classes.
        classnames: names by index.
        reasons: sample -> reason why it is in a group.
    """

    roots: Roots
    classes: NDArray[np.int64]
    classnames: tuple[str, ...] = ()
    reasons: dict[int, str] = field(default_factory=dict)


def usable(findings: Findings, reader: Reader) -> Iterator[tuple[int, Entry]]:
    """Yield (index, entry) of every usable sample."""
    at = 0
    for shard, numbers in findings.usable_places():
        entries = reader.index(shard) if len(numbers) else []
        yield from ((place, entries[number]) for place, number in enumerate(numbers, at))
        at += len(numbers)


def labeled(findings: Findings, reader: Reader, options: Options, roots: Roots, reasons: dict[int, str]) -> Labeled:
    """Return the classes of the samples, and their groups with the series of ``options``.

    Raises:
        DatasetError: no sample has the field of the classes or the series.
    """
    result = Labeled(roots, np.zeros(findings.usable, np.int64), (), reasons)
    if not (options.classes or options.series or options.series_pattern):
        return result
    pattern = re.compile(options.series_pattern) if options.series_pattern else None
    names: dict[str, int] = {}
    first: dict[tuple[str, object], int] = {}
    joined: tuple[list[int], list[int]] = [], []
    present: Counter[str] = Counter()
    for place, entry in usable(findings, reader):
        if options.classes:
            name = value_of(reader, entry, options.classes, present)
            result.classes[place] = names.setdefault(name, len(names)) if name else MISSING
        series: list[tuple[str, object]] = []
        if options.series and (value := _series_of(reader, entry, options.series, present)):
            series.append(("series", value))
        if pattern and (match := pattern.search(entry.key)):
            series.append(("pattern", match.groups()))
        for one in series:
            other = first.setdefault(one, place)
            if other != place:
                joined[0].append(other)
                joined[1].append(place)
                result.reasons.setdefault(other, SERIES)
                result.reasons.setdefault(place, SERIES)
    kinds = {kind for kind, _ in first}
    _check_fields(options, present, {"classes": bool(names), "series": "series" in kinds})
    if options.series_pattern and "pattern" not in kinds:
        raise DatasetError(
            f"--series-pattern {options.series_pattern!r} matches no key, such as that of the first sample, "
            f"{next(entry.key for _, entry in usable(findings, reader))!r}; change the pattern"
        )
    result.classnames, result.classes = _sorted(names, result.classes)
    result.roots = linked(roots, np.array(joined[0], np.int64), np.array(joined[1], np.int64))
    return result


def value_of(reader: Reader, entry: Entry, name: str, present: Counter[str]) -> str:
    """Return the folder of a sample, or the text of its field or member; "" if it has none.

    ``present`` counts the fields of samples without it.
    """
    if name == FOLDER:
        return " ".join(entry.key.rpartition("/")[0].rpartition("/")[2].split())
    with suppress(SampleError):
        fields = reader.fields(entry)
        if name in fields:
            return " ".join(fields[name][0].split())
        others = reader.others(entry)
        if name in others:
            return " ".join(others[name].decode("utf-8", "replace").split())
        present.update([*fields, *others])
    return ""


def _series_of(reader: Reader, entry: Entry, name: str, present: Counter[str]) -> str:
    """Return the whole path of the folder of a sample, since ``a/1`` and ``b/1`` are two folders, or `value_of`."""
    return entry.key.rpartition("/")[0] if name == FOLDER else value_of(reader, entry, name, present)


def parts_of(data: Labeled, options: Options) -> NDArray[np.int8]:
    """Return the number of the part of each sample; `MISSING` for samples without a class.

    Raises:
        DatasetError: a class of ``heldout`` does not exist, the sizes cannot be met, or a part would be empty.
    """
    unknown = [name for name in options.heldout if name not in data.classnames]
    if unknown:
        listed = ", ".join(data.classnames[:20])
        raise DatasetError(f"--heldout names the class {unknown[0]!r}, which no sample has; the classes are {listed}")
    parts = np.full(len(data.roots), MISSING, np.int8)
    has_class = data.classes != MISSING
    held = np.isin(data.classes, [data.classnames.index(name) for name in options.heldout]) & has_class
    held = np.isin(data.roots, data.roots[held]) & has_class
    parts[held] = PARTS.index(HELDOUT)
    rest = np.flatnonzero(has_class & ~held)
    if not len(rest):
        raise DatasetError(
            "no sample is left to split: all are unusable, have no class, or belong to classes of --heldout; "
            "`clipzoo check DATA` lists unusable samples with their reasons"
        )
    _, first, inverse = np.unique(data.roots[rest], return_index=True, return_inverse=True)
    wanted = sizes(options, len(rest))
    parts[rest] = assign(first[inverse], data.classes[rest], wanted, options.seed)
    _check_filled(parts[rest], inverse, wanted)
    return parts


def _check_filled(parts: NDArray[np.int8], groups: NDArray[np.int64], wanted: list[int]) -> None:
    """Raise `DatasetError` if a part has no samples because no group fits in it."""
    empty = [part for part, size in enumerate(wanted) if size and not (parts == part).any()]
    if not empty:
        return
    name, size, counts = PARTS[empty[0]], wanted[empty[0]], np.bincount(groups)
    fix = (
        "Give smaller --probe, --validation and --test"
        if name == TRAIN
        else f"Give a larger --{name}, or --{name} 0 to leave it out"
    )
    raise DatasetError(
        f"the part {name!r} would be empty instead of {counted(size, 'sample')}: samples of one group (near-duplicates "
        f"or a series) stay in one part, and the {counted(len(counts), 'group')} of {counted(len(parts), 'sample')} "
        f"cannot be assigned in these sizes; the largest has {counted(int(counts.max()), 'sample')}. {fix}, or split a "
        "dataset of more groups"
    )


def _sorted(names: dict[str, int], classes: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names in order, numbers by value, and the classes as indices of them."""
    ordered = sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    new = np.full(len(names) + 1, MISSING)
    new[[names[name] for name in ordered]] = np.arange(len(names))
    return tuple(ordered), new[classes] if names else classes


def _check_fields(options: Options, present: Counter[str], found: dict[str, bool]) -> None:
    for option, is_found in found.items():
        name = getattr(options, option)
        if name and not is_found:
            listed = ", ".join(field for field, _ in present.most_common(20)) or "no fields with text"
            why = (
                "no sample is in a folder below the dataset's; give the folder above the folders of the classes"
                if name == FOLDER
                else f"no sample has text in this field; the samples have {listed}"
            )
            raise DatasetError(f"--{option} {name}: {why}")
