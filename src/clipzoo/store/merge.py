"""Stores of one dataset, labeled on several machines, as one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.store.column import Column
from clipzoo.store.manifest import MANIFEST, append_lines, runs, writing
from clipzoo.store.rows import SOURCE_MARK, SUFFIXES
from clipzoo.store.store import Store

log = logging.getLogger(__name__)


def merge(
    sources: Sequence[Store],
    out: Store,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Column]:
    """Bring the shards of stores together in ``out``, which may have some of them already.

    All is checked before anything is written. Files are hard links where the disk allows it, else copies; a shard
    counts when both of its files are there, so that the same call goes on where it was killed. Nothing is
    written into the sources, which may be such that can only be read.

    Args:
        sources: stores over one dataset.
        out: made if it is not there; may be one of the sources.
        progress: told of each shard: (column, shards done, shards in all).

    Returns:
        the columns of ``out`` that the sources have, counted again.

    Raises:
        StoreError: the stores are of different datasets, or of other pictures in a shard, columns of one name do not
            agree, two stores have a shard with other labels, a manifest was edited, or one is in use.
    """
    apart = {store.root.resolve(): store for store in sources}
    apart.pop(out.root.resolve(), None)
    given = [column for store in apart.values() for column in _columns(store)]
    _of_one_dataset([*out.columns(), *given])
    with ExitStack() as stack:
        held = [Column(out.root / name) for name in {c.name for c in given} if (out.root / name / MANIFEST).exists()]
        for column in given:
            stack.enter_context(files.idle(column.path, StoreError, "a merge would take half of what it writes"))
        for column in sorted(held, key=lambda column: column.name):
            stack.enter_context(column.lock())
        _of_same_pictures([*out.columns(), *given])
        plans = {name: _plan([c for c in given if c.name == name], out) for name in sorted({c.name for c in given})}
        return [_merged(name, plan, given, out, stack, progress) for name, plan in plans.items()]


def _columns(store: Store) -> list[Column]:
    columns = store.columns(needed=True)
    for column in columns:
        if column.path.parts[-2:] != (column.task, column.slug):
            raise StoreError(f"{column.path} says that it is {column.name}; give the folder its own name back")
    return columns


def _of_one_dataset(columns: Sequence[Column]) -> None:
    """Raise `StoreError` unless they are, whatever their names: a store beside a dataset holds labels of no other."""
    for other in columns[1:]:
        columns[0].manifest.belongs(other.manifest.dataset, columns[0].path, str(other.path))


def _of_same_pictures(columns: Sequence[Column]) -> None:
    """Raise `StoreError` unless the shards of one name label the same pictures, and mean what their manifests say."""
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
                    f"the shard {shard!r} has other pictures in {column.path} than in {owner.path}: their keys or "
                    "sizes in bytes differ, so the stores were made from different versions of the dataset. `clipzoo "
                    f"labels verify STORE --data DATA` tells which fits; remove {shard}.parquet and {shard}.tar from "
                    "the other, and label the shard again"
                )


def _plan(columns: Sequence[Column], out: Store) -> dict[str, Column]:
    """The shards that ``out`` lacks, and the first that has each; `StoreError` if they cannot be one column."""
    task, slug = columns[0].task, columns[0].slug
    held = [out.column(task, slug)] if (out.root / task / slug / MANIFEST).exists() else []
    first, *others = [*held, *columns]
    for other in others:
        first.manifest.agree(other.manifest, first.path)
    owners: dict[str, Column] = {}
    for column in (first, *others):
        for shard, suffix in column.halves().items() if column not in held else ():
            log.warning("%s is left out: it is not whole, %s is missing", shard, column.file(shard, suffix))
        for shard in sorted(column.committed()):
            owner = owners.setdefault(shard, column)
            if owner is not column and not _equal(owner, column, shard):
                raise StoreError(
                    f"{owner.path} and {column.path} both have the shard {shard!r}, with other labels; which are meant "
                    f"is yours to say: remove {shard}.parquet and {shard}.tar from one of them"
                )
    return {shard: owner for shard, owner in sorted(owners.items()) if owner not in held}


def _equal(one: Column, other: Column, shard: str) -> bool:
    """Whether two columns have the same labels and reasons in a shard, also where only one of them has codes."""
    if not files.same(one.file(shard, ".tar"), other.file(shard, ".tar")):
        return False
    if files.same(one.file(shard, ".parquet"), other.file(shard, ".parquet")):
        return True
    rows, other_rows = (column.rows(shard).drop_columns("code") for column in (one, other))
    return bool(rows.equals(other_rows, check_metadata=True))


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
        locks.enter_context(Column(path).lock())  # else it is held already
    target = Column(path)
    for done, (shard, source) in enumerate(plan.items(), 1):
        for suffix in SUFFIXES:
            with writing(target.file(shard, suffix)):
                files.bring(source.file(shard, suffix), target.file(shard, suffix))
        progress(name, done, len(plan))
    _note(sources, target)
    target.finish(merged=len(plan))
    return Column(path)


def _note(sources: Sequence[Column], target: Column) -> None:
    """Add the sources' runs that ``target`` does not know yet: what the labels have cost sums to the truth."""
    known = {json.dumps(line, sort_keys=True) for line in runs(target.path)}
    told = dict.fromkeys(json.dumps(line, sort_keys=True) for source in sources for line in runs(source.path))
    append_lines(target.path, [line for line in told if line not in known])
