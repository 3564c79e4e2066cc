"""Groups of samples that belong together: equal and nearly equal pictures; a table of their keys.

The table is ``groups.parquet`` in the folder of a check, with one row per sample of a group: ``shard``, ``key``,
``group`` (a number) and ``reason``. ``clipzoo split`` keeps the samples of a group in one part.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.checking import duplicates
from clipzoo.checking.findings import Findings
from clipzoo.errors import DatasetError, shell_word
from clipzoo.readers import Reader

TABLE = "groups.parquet"

EQUAL, NEAR, SERIES = "equal picture", "nearly equal picture", "series"

Roots = NDArray[np.int64]
"""For each usable sample, the index of the first sample of its group; its own index if it is alone."""

_SCHEMA = pa.schema(
    [("shard", pa.string()), ("key", pa.string()), ("group", pa.int64()), ("reason", pa.string())]
)  # fmt: skip
_CHECKED = b"clipzoo.checked"


def of_pictures(findings: Findings) -> tuple[Roots, Roots]:
    """Return the groups of equal pictures, and the groups of equal or nearly equal pictures."""
    digests, dhashes, hashed = findings.hashes()
    equal = np.arange(findings.usable)
    for group in duplicates.equal(digests):
        equal[group] = group[0]
    near = equal
    groups = [hashed[group] for group in duplicates.near(dhashes)]
    if groups:
        firsts = np.concatenate([np.full(len(group) - 1, group[0]) for group in groups])
        near = linked(equal, firsts, np.concatenate([group[1:] for group in groups]))
    return equal, near


def linked(roots: Roots, one: NDArray[np.int64], other: NDArray[np.int64]) -> Roots:
    """Return the groups after every sample ``one[i]`` joins the group of ``other[i]``."""
    return duplicates.linked(roots.copy(), one, other)


def checked(findings: Findings) -> str:
    """Return a digest of the samples that were checked; it changes with any picture, and with their order."""
    digest = hashlib.sha256()
    for shard, numbers in findings.usable_places():
        digest.update(shard.encode("utf-8", "surrogateescape") + b"\0" + numbers.tobytes())
    digest.update(findings.hashes()[0].tobytes())
    return digest.hexdigest()


def write(findings: Findings, reader: Reader, folder: Path) -> Path:
    """Write the table of the groups, and return its path."""
    equal, near = of_pictures(findings)
    sizes = np.bincount(near, minlength=findings.usable)
    twins = np.bincount(equal, minlength=findings.usable)
    path, at = folder / TABLE, 0
    schema = _SCHEMA.with_metadata({_CHECKED: checked(findings).encode()})
    with files.atomic(path) as partial, pq.ParquetWriter(files.for_arrow(partial), schema) as table:
        for shard, numbers in findings.usable_places():
            places = at + np.flatnonzero(sizes[near[at : at + len(numbers)]] > 1)
            if len(places):
                entries = reader.index(shard)
                rows = [
                    {
                        "shard": _text(shard),
                        "key": entries[numbers[place - at]].key,
                        "group": int(near[place]),
                        "reason": EQUAL if twins[equal[place]] > 1 else NEAR,
                    }
                    for place in places
                ]
                table.write_table(pa.Table.from_pylist(rows, schema))
            at += len(numbers)
    return path


def read(folder: Path, findings: Findings, reader: Reader) -> tuple[Roots, dict[int, str]] | None:
    """Return the groups of the table, and the reason of each of its samples; None if there is no table.

    Raises:
        DatasetError: the table cannot be read, is of other data, or names samples that the dataset does not have.
    """
    path = folder / TABLE
    if not path.exists():
        return None
    fix = f"delete it, or write it again with `clipzoo check DATA --resume {shell_word(folder)}`"
    try:
        table = pq.read_table(files.for_arrow(path))
        rows = table.select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path} ({error}); {fix}") from error
    made_of = (table.schema.metadata or {}).get(_CHECKED)
    if made_of is not None and made_of.decode() != checked(findings):
        raise DatasetError(f"{path} has the groups of other data: the dataset has changed since it was checked; {fix}")
    by_shard: dict[str, dict[str, tuple[int, str]]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], {})[row["key"]] = row["group"], row["reason"]
    roots, reasons = np.arange(findings.usable), {}
    first: dict[int, int] = {}
    at = 0
    for shard, numbers in findings.usable_places():
        wanted = by_shard.pop(_text(shard), {})
        entries = reader.index(shard) if wanted else []
        for place, number in enumerate(numbers if wanted else (), at):
            if (found := wanted.pop(entries[number].key, None)) is not None and found[0] is not None:
                roots[place] = first.setdefault(found[0], place)
                reasons[place] = found[1]
        if wanted:
            raise DatasetError(f"{path} names the sample {next(iter(wanted))!r} of the shard {shard!r}, which has no "
                               f"such usable sample; {fix}")  # fmt: skip
        at += len(numbers)
    if by_shard:
        raise DatasetError(f"{path} names the shard {next(iter(by_shard))!r}, which the dataset does not have; {fix}")
    return roots, reasons


def _text(shard: str) -> str:
    return shard.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def with_reasons(findings: Findings) -> tuple[Roots, dict[int, str]]:
    """Return the groups of equal or nearly equal pictures, and the reason of each sample in one."""
    equal, near = of_pictures(findings)
    sizes, twins = np.bincount(near), np.bincount(equal)
    grouped = np.flatnonzero(sizes[near] > 1)
    return near, {int(place): EQUAL if twins[equal[place]] > 1 else NEAR for place in grouped}
