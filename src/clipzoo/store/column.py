"""A column: the labels of one expert over a dataset, read and locked."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from tarfile import BLOCKSIZE
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from clipzoo import files, tasks
from clipzoo.errors import LabelError, LostError, StoreError, counted, shell_word
from clipzoo.experts.base import ExpertCard, sha256
from clipzoo.files import Place, locked, read_at
from clipzoo.store.manifest import EXPERT, MANIFEST, Counts, Manifest, append_run, runs, safe_name, software
from clipzoo.store.rows import (
    EXPERT_MARK,
    OLD_SCHEMA,
    SCHEMA,
    SOURCE_MARK,
    SUFFIXES,
    TAR_MARK,
    Row,
    failures,
    marks_of,
    old_codes,
)  # fmt: skip
from clipzoo.tasks import levels, png
from clipzoo.tasks.base import Convention, Task
from clipzoo.types import Failure, View

log = logging.getLogger(__name__)

NAME = 100
"""Bytes of a member's name in its header; longer ones, and those that are not ASCII, are in a member before."""


def _size(header: bytes) -> int:
    """Return the size in a tar member's header; -1 if it is not a number."""
    try:
        return int(header[124:135], 8)
    except ValueError:
        return -1


def _lost(tar: Place, error: OSError) -> LostError:
    rows = f"{tar.stem}.parquet"
    return LostError(
        f"cannot read {tar}: {error.strerror}. Mount or restore the store, or remove {rows} and label again"
    )


def _has_other_name(before: bytes, name: str) -> bool:
    """Return True if the PAX record before a member's header has another name. Records over one block are not read."""
    record = f" path={name}\n".encode()
    return len(record) < BLOCKSIZE - 4 and record not in before


class _Shards:
    """The files of a column, shard by shard, and its manifest."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self.manifest = Manifest.read(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def task(self) -> str:
        """The task's name, a file of ``clipzoo/tasks/``."""
        return self.manifest.task

    @property
    def slug(self) -> str:
        """The expert's folder name in the store: `ExpertCard.slug`."""
        return self.manifest.slug

    @property
    def name(self) -> str:
        """``<task>/<slug>``: the name of this column in recipes, plans and batches."""
        return f"{self.task}/{self.slug}"

    @property
    def convention(self) -> Convention:
        """The label space, kind of depth and so on of the labels."""
        return Convention.from_json(self.manifest.convention)

    @property
    def card(self) -> ExpertCard:
        """The expert's card, from the manifest."""
        known = {field.name for field in fields(ExpertCard)}
        stored = {**self.manifest.expert, "license": self.manifest.expert.get("licence", "unknown")}
        kept = {name: value for name, value in stored.items() if name in known}
        own = {"task": self.task, "convention": self.convention, "name": self.slug}
        return ExpertCard(**cast(dict[str, Any], {**kept, **own}))

    def file(self, shard: str, suffix: str) -> Place:
        """Return the path of a shard's file; ``suffix`` is ".tar" or ".parquet".

        Raises:
            StoreError: the shard's name is a path out of the column.
        """
        if not safe_name(shard):
            raise StoreError(f"{shard!r} is not a valid shard name: it must be a relative path without '..'")
        return self.path / (shard + suffix)

    def committed(self) -> set[str]:
        """Return the names of the complete shards: both of their files exist."""
        tars, tables = self._files()
        return tars & tables

    def halves(self) -> dict[str, str]:
        """Return shard -> the suffix of its missing file.

        A run that was killed during a commit leaves only the tar.
        """
        tars, tables = self._files()
        return {shard: ".parquet" if shard in tars else ".tar" for shard in sorted(tars ^ tables)}

    def void(self) -> bool:
        """Return True if the column has no label. It may have rows of failures."""
        return not self.halves() and all(rows["size"].null_count == len(rows) for _, rows in self.tables())

    def _files(self) -> tuple[set[str], set[str]]:
        """Return the shards that have a tar, and those that have rows, from one listing."""
        names = files.below(self.path)
        tars, tables = ({name.removesuffix(end) for name in names if name.endswith(end)} for end in SUFFIXES)
        return tars, tables

    def has(self, shard: str) -> bool:
        """Return True if a shard is complete, without listing the others.

        Raises:
            StoreError: the shard has rows, and its tar is missing.
        """
        tar, table = (self.file(shard, suffix) for suffix in SUFFIXES)
        there = table.is_file()
        if there and not tar.is_file():
            raise StoreError(
                f"{tar} is missing, so the labels of {self.name} in the shard {shard!r} are lost. Rerun the command "
                "that made the column (`clipzoo label` or `clipzoo labels import`): it makes the missing shard again"
            )
        return there

    def rows(self, shard: str) -> pa.Table:
        """Return the rows of a committed shard, of `SCHEMA`, in the order of the dataset. Keys are unique.

        Raises:
            StoreError: the shard is not committed, or its parquet is damaged.
        """
        with self._parquet(shard) as path:
            # no threads of Arrow (26): one that frees a buffer of Python while the interpreter ends aborts the process
            table = pq.ParquetFile(io.BytesIO(files.read(path)), pre_buffer=False).read(use_threads=False)
        if table.schema == OLD_SCHEMA:
            table = table.append_column(SCHEMA.field("code"), old_codes(table))
        if table.schema != SCHEMA:
            raise StoreError(
                f"{path} has the columns {', '.join(table.schema.names)}, not {', '.join(SCHEMA.names)}. Remove it and "
                "label again"
            )
        return table

    def marks(self, shard: str) -> dict[str, str]:
        """Return `marks_of` a committed shard, from the end of its parquet, without reading the rows.

        Raises:
            StoreError: the shard is not committed, or its parquet is damaged.
        """
        with self._parquet(shard) as path, files.open_file(path) as file:
            return marks_of(pq.read_schema(file))

    @contextmanager
    def _parquet(self, shard: str) -> Iterator[Place]:
        """Yield the path of a shard's rows, and turn errors of reading them into `StoreError`."""
        path = self.file(shard, ".parquet")
        try:
            yield path
        except FileNotFoundError as error:
            raise StoreError(f"{self.name} has no committed shard {shard!r}: label it first") from error
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} is damaged ({error}). Remove it and label again") from error

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield (shard, `rows`) of every committed shard, sorted by name."""
        shards = sorted(self.committed())
        return zip(shards, files.map_ahead(self.rows, shards, files.threads(self.path)), strict=True)


class Column(_Shards):
    """The labels of one expert over a dataset."""

    def check_meaning(self, shard: str, marks: Mapping[str, str]) -> None:
        """Raise `StoreError` if a shard with these `marks` was labeled under another manifest than this one."""
        if marks.get(EXPERT_MARK, self.manifest.digest) != self.manifest.digest:
            raise StoreError(
                f"{self.path / MANIFEST} does not describe the labels of the shard {shard!r}: the shard's mark is "
                f"{marks[EXPERT_MARK]}, the manifest's digest is {self.manifest.digest}. The manifest was edited, or "
                "the shard is from another column, so its labels have another meaning. Restore these fields of the "
                f"manifest: {', '.join(('task', 'convention', *EXPERT))}. If the labels are wrong, remove the column "
                f"(`clipzoo labels rm {shell_word(self.path.parent.parent)} {self.name} --yes`) and label again"
            )

    def check_pictures(self, shard: str, marks: Mapping[str, str], source: str) -> bool:
        """Return True if a shard with these `marks` labels the samples with this `shard_fingerprint`.

        False if the shard was labeled by an older clipzoo, which did not store the fingerprint.

        Raises:
            StoreError: it labels other samples.
        """
        if marks.get(SOURCE_MARK, source) != source:
            raise StoreError(
                f"{self.path}: the shard {shard!r} has other samples in the dataset now than those that were labeled: "
                "its keys, or the sizes of its images in bytes, have changed. Training would pair labels with the "
                f"wrong images. Restore the shard, or remove {shard}.parquet and {shard}.tar from this folder "
                "and rerun the command that made the column (`clipzoo label` or `clipzoo labels import`)"
            )
        return SOURCE_MARK in marks

    def check_tar(self, shard: str, marks: Mapping[str, str]) -> None:
        """Raise `StoreError` if the tar of a shard with these `marks` is not the one that was committed."""
        tar = self.file(shard, ".tar")
        try:
            digest = sha256(tar)
        except OSError as error:
            raise _lost(tar, error) from error
        if marks.get(TAR_MARK, digest) != digest:
            raise StoreError(
                f"{tar} has changed since it was written: its checksum is not that of its rows. Remove {shard}.parquet "
                "and label again"
            )

    def checked(self, shard: str, source: str) -> dict[str, Row]:
        """Return key -> row of a committed shard, after `check_meaning` and `check_pictures`."""
        rows = self.rows(shard)
        marks = marks_of(rows.schema)
        self.check_meaning(shard, marks)
        self.check_pictures(shard, marks, source)
        return {row["key"]: cast(Row, row) for row in rows.to_pylist()}

    def warn_unmarked(self, shards: Sequence[str]) -> None:
        """Warn of shards for which `check_pictures` returned False."""
        if shards:
            log.warning(
                "%s: an older clipzoo, which stored no fingerprint of their images, labeled %s, the first one %s. "
                "Changes of the dataset since then cannot be detected", self.name, counted(len(shards), "shard"),
                shards[0],
            )  # fmt: skip

    @contextmanager
    def cached(self, shard: str) -> Iterator[None]:
        """Read labels from one download of a shard's tar during the block, if it is remote; for whole shards.

        Raises:
            LostError: the tar is missing.
        """
        path = self.file(shard, ".tar")
        with ExitStack() as stack:
            try:
                stack.enter_context(files.cached(path))
            except OSError as error:
                raise _lost(path, error) from error
            yield

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return the bytes of one label. Safe in threads and forked workers.

        Raises:
            LostError: the tar is missing or cannot be opened.
            StoreError: the tar is truncated.
        """
        path = self.file(shard, ".tar")
        try:
            data = read_at(path, offset, size)
        except OSError as error:
            raise _lost(path, error) from error
        if len(data) < size:
            raise StoreError(
                f"{path} ends before byte {offset + size}: it is truncated. Remove {shard}.parquet and label again"
            )
        return data

    def view(self, shard: str, key: str, offset: int, size: int, view: View) -> Any:
        """Return a sample's label as seen through a view; reads only its level where that is enough (`tasks.levels`).

        Raises:
            LostError, StoreError, LabelError: see `member`, or the label cannot be decoded.
        """
        task = tasks.get(self.task)
        partly = type(task).read is not Task.read  # `Task.read` decodes whole files
        if self.manifest.codec == png.LEVELS and partly and task.extension == "png" and size > levels.HEAD:
            with suppress(levels.ShortError):
                return task.read(self.member(shard, key, offset, size, levels.HEAD), view)
        return task.read(self.member(shard, key, offset, size), view)

    def member(self, shard: str, key: str, offset: int, size: int, first: int | None = None) -> bytes:
        """Return a sample's label, or its ``first`` bytes, and check that the tar's header has this key and size.

        Raises:
            LostError: the tar is missing or cannot be opened.
            StoreError: the tar is truncated.
            LabelError: the header is of another member: rows and tar are from different runs.
        """
        name = f"{key}.{tasks.get(self.task).extension}"
        long = 0 if name.isascii() and len(name) <= NAME else 2 * BLOCKSIZE  # PAX keeps such a name in a member before
        before = min(offset, long + BLOCKSIZE)
        data = self.read(shard, offset - before, before + (size if first is None else min(first, size)))
        header = data[before - BLOCKSIZE : before]
        stored = header[:NAME].rstrip(b"\0").decode("utf-8", "replace")
        if (stored != name and not long) or _size(header) != size or (long and _has_other_name(data[:before], name)):
            raise LabelError(
                f"the row of {key!r} points to the member {stored!r} of {self.file(shard, '.tar')}: rows and tar are "
                f"from different runs. Remove {shard}.parquet and label again"
            )
        return data[before:]

    def failures(self) -> Iterator[tuple[str, str, Failure]]:
        """Yield (shard, key, reason) of every sample that has a row and no label."""
        for shard, rows in self.tables():
            for key, failure in failures(rows).items():
                yield shard, key, failure

    def label(self, shard: str, row: Row) -> Any:
        """Return the label of a row (an element of ``rows(shard).to_pylist()``).

        Raises:
            StoreError: the row has no label.
            LabelError: its bytes cannot be decoded, or are of another sample.
        """
        if row["size"] is None:
            raise StoreError(f"{row['key']!r} of {self.name} has no label: {row['error']}")
        data = self.member(shard, row["key"], cast(int, row["offset"]), row["size"])
        return tasks.get(self.task).decode(data)

    def finish(self, seconds: float = 0.0, **values: object) -> None:
        """End a run: add a line to ``runs.jsonl``, and update counts, bytes and seconds in the manifest.

        Counts come from the committed shards and seconds from all lines, so the sums are right after any number of
        runs, also after killed ones. ``seconds`` are those not yet recorded with a shard.
        """
        append_run(self.path, event="end", seconds=seconds, **values)
        counts = Counts()
        sizes = files.below(self.path, ".tar")
        for shard, rows in self.tables():
            counts.shards += 1
            counts.failures += len(rows) - rows["error"].null_count
            counts.labels += rows["error"].null_count
            counts.bytes += sizes.get(f"{shard}.tar", 0)
        lines = list(runs(self.path))
        counts.replaced = sum(bool(line.get("replaced")) for line in lines)
        total = sum(float(line.get("seconds", 0.0)) for line in lines)
        self.manifest = self.manifest.model_copy(update={"counts": counts, "seconds": round(total, 3)})
        self.manifest.write(self.path)

    def seconds_in_use(self) -> float:
        """Return the seconds that the stored labels took. `Manifest.seconds` also counts labels that were dropped.

        For a shard that was labeled again, only the last run counts, or all runs if labels were kept.
        """
        spent: dict[str, float] = {}
        for line in runs(self.path):
            if line.get("event") == "shard":
                before = spent.get(line["shard"], 0.0) if line.get("kept") else 0.0
                spent[line["shard"]] = before + float(line["seconds"])
        return sum(spent.values()) if spent else self.manifest.seconds

    def start(self, **values: object) -> None:
        """Record the start of a run and its software in ``runs.jsonl``."""
        append_run(self.path, event="start", software=software(), **values)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the column's lock in the block, and remove partial files of writers that died.

        Raises:
            StoreError: another run writes this column, or links in it point out of its store.
        """
        root, name = self.path.parent.parent, "/".join(self.path.parts[-2:])
        files.check_inside(root, name, StoreError)
        with locked(self.path, StoreError, "two runs on one column would do the same work"):
            self.sweep()
            yield

    def sweep(self) -> None:
        """Remove partial files. The caller holds the lock and has no open writer."""
        files.remove_partial(self.path, but=MANIFEST)  # the manifest is written without the lock
