"""Merging of stores of one dataset that were labeled on several machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.compute as pc

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.files import AnyPath
from clipzoo.store.column import Column
from clipzoo.store.manifest import MANIFEST, append_lines, runs, writing
from clipzoo.store.rows import SOURCE_MARK, SUFFIXES
from clipzoo.store.store import HEADLESS, Store
from clipzoo.tasks import png

log = logging.getLogger(__name__)


def merge(
    sources: Sequence[Store | AnyPath],
    out: Store | AnyPath,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Column]:
    """Merge the shards of stores into ``out``, which may already have some of them.

    Everything is checked before anything is written. Files become hard links where the disk allows it, else copies.
    A call that was killed can be repeated. Nothing is written into the sources, which may be read-only.

    Args:
        sources: stores over one dataset, or their paths.
        out: created if it does not exist; may be one of the sources.
        progress: called after each shard with (column, shards done, all shards).

    Returns:
        the columns of ``out`` that the sources have.

    Raises:
        StoreError: the stores are of different datasets or images, columns of one name differ in meaning, two stores
            have different labels for a shard, a manifest was edited, or a store is in use.
    """
    out = Store.of(out)
    apart = {store.root.resolve(): store for store in map(Store.of, sources)}
    apart.pop(out.root.resolve(), None)
    given = [column for store in apart.values() for column in _columns(store)]
    _of_one_dataset([*out.columns(), *given])
    with ExitStack() as stack:
        held = [Column(out.root / name) for name in {c.name for c in given} if (out.root / name / MANIFEST).exists()]
        for column in given:
            stack.enter_context(files.unlocked(column.path, StoreError, "a merge would copy an incomplete column"))
        for column in sorted(held, key=lambda column: column.name):
            stack.enter_context(column.lock())
        _of_same_pictures([*out.columns(), *given])
        plans = {name: _plan([c for c in given if c.name == name], out) for name in sorted({c.name for c in given})}
        return [_merged(name, plan, given, out, stack, progress) for name, plan in plans.items()]


def _columns(store: Store) -> list[Column]:
    columns = store.columns(needed=True)
    for name in store.headless():
        log.warning("%s %s", store.root / name, HEADLESS)
    for column in columns:
        if column.path.parts[-2:] != (column.task, column.slug):
            raise StoreError(
                f"the manifest of {column.path} is that of {column.name}. Rename the folder to {column.name}"
            )
    return columns


def _of_one_dataset(columns: Sequence[Column]) -> None:
    """Raise `StoreError` unless all columns are over one dataset."""
    for other in columns[1:]:
        columns[0].manifest.belongs(other.manifest.dataset, columns[0].path, str(other.path))


def _of_same_pictures(columns: Sequence[Column]) -> None:
    """Raise `StoreError` unless shards of one name label the same images, under the manifests of their columns."""
    first: dict[str, tuple[str, Column]] = {}
    for column in columns:
        for shard in sorted(column.committed()):
            marks = column.marks(shard)
            column.check_meaning(shard, marks)
            source, owner = first.setdefault(shard, (marks.get(SOURCE_MARK, ""), column))
            if not source:
                first.pop(shard)
            elif marks.get(SOURCE_MARK, source) != source:
                raise StoreError(
                    f"the shard {shard!r} has other images in {column.path} than in {owner.path}: their keys or "
                    "sizes in bytes differ, so the stores were made from different versions of the dataset. `clipzoo "
                    f"labels verify STORE --data DATA` shows which one fits. Remove {shard}.parquet and {shard}.tar "
                    "from the other one and label the shard again"
                )


def _plan(columns: Sequence[Column], out: Store) -> dict[str, Column]:
    """Return shard -> the column to copy it from, for shards missing in ``out``.

    Raises:
        StoreError: the columns cannot be merged.
    """
    task, slug = columns[0].task, columns[0].slug
    held = [out.column(task, slug)] if (out.root / task / slug / MANIFEST).exists() else []
    first, *others = [*held, *columns]
    for other in others:
        first.manifest.agree(other.manifest, first.path)
        first.manifest.same_revision(other.manifest, first.path)
        _of_same_values(first, other)
    owners: dict[str, Column] = {}
    for column in (first, *others):
        for shard, suffix in column.halves().items() if column not in held else ():
            log.warning("%s is skipped: it is incomplete, %s is missing", shard, column.file(shard, suffix))
        for shard in sorted(column.committed()):
            owner = owners.setdefault(shard, column)
            if owner is not column and not _equal(owner, column, shard):
                raise StoreError(
                    f"{owner.path} and {column.path} have different labels for the shard {shard!r}. Remove "
                    f"{shard}.parquet and {shard}.tar from the one whose labels are not wanted"
                )
    return {shard: owner for shard, owner in sorted(owners.items()) if owner not in held}


def _of_same_values(first: Column, other: Column) -> None:
    """Raise `StoreError` if training would read only one of two columns by levels, whose values differ slightly."""
    if (first.manifest.codec == png.LEVELS) != (other.manifest.codec == png.LEVELS):
        raise StoreError(
            f"{first.path} has labels of the codec {first.manifest.codec!r}, {other.path} of {other.manifest.codec!r}. "
            "Training reads smaller maps from one of them, so labels of both in one column would differ in their "
            "values. Remove one of the two columns and label its shards again with --codec of the other one"
        )


def _equal(one: Column, other: Column, shard: str) -> bool:
    """Return True if two columns have equal labels in a shard, and failures of the same samples.

    Texts of failures differ between versions, and old rows have no codes.
    """
    if not files.equal(one.file(shard, ".tar"), other.file(shard, ".tar")):
        return False
    if files.equal(one.file(shard, ".parquet"), other.file(shard, ".parquet")):
        return True
    rows, other_rows = (_without_texts(column.rows(shard)) for column in (one, other))
    return bool(rows.equals(other_rows, check_metadata=True))


def _without_texts(rows: pa.Table) -> pa.Table:
    index = rows.schema.get_field_index("error")
    return rows.drop_columns("code").set_column(index, "failed", pc.is_valid(rows["error"]))


def _merged(
    name: str,
    plan: Mapping[str, Column],
    given: Sequence[Column],
    out: Store,
    locks: ExitStack,
    progress: Callable[[str, int, int], None],
) -> Column:
    sources = [column for column in given if column.name == name]
    path = out.root / name
    if not (path / MANIFEST).exists():
        files.check_inside(out.root, name, StoreError)
        sources[0].manifest.write(path)
        locks.enter_context(Column(path).lock())  # existing columns are locked already
    target = Column(path)
    for done, (shard, source) in enumerate(plan.items(), 1):
        for suffix in SUFFIXES:
            with writing(target.file(shard, suffix)):
                files.link_or_copy(source.file(shard, suffix), target.file(shard, suffix))
        progress(name, done, len(plan))
    _note(sources, target)
    target.finish(merged=len(plan))
    return Column(path)


def _note(sources: Sequence[Column], target: Column) -> None:
    """Add the sources' runs that ``target`` does not have, so that the costs of all labels are summed."""
    known = {json.dumps(line, sort_keys=True) for line in runs(target.path)}
    lines = dict.fromkeys(json.dumps(line, sort_keys=True) for source in sources for line in runs(source.path))
    append_lines(target.path, [line for line in lines if line not in known])
