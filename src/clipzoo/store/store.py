"""Labels on disk, beside the untouched dataset.

    LABELS/<task>/<expert slug>/manifest.json       what the labels mean and where they come from
                                runs.jsonl          a line per start, shard and end: cost and software
                                <shard>.tar         members <key>.<ext>, one a label
                                <shard>.parquet     a row per sample; written last: the shard counts from then on

Tars and parquets hold no times, owners or versions: equal labels give equal bytes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipzoo import files, tasks
from clipzoo.errors import LabelError, LostError, StoreError
from clipzoo.experts.base import ExpertCard
from clipzoo.files import AnyPath, Place, alone, read_at
from clipzoo.readers._tar import BLOCK
from clipzoo.store.manifest import EXPERT, MANIFEST, Counts, Manifest, append_run, runs, safe_name, software, writing
from clipzoo.tasks.base import Convention
from clipzoo.types import Failure

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),  # of the label in the shard's tar; null if failed
        pa.field("size", pa.int64()),  # in bytes; null if failed
        pa.field("valid_share", pa.float32(), nullable=False),  # 0 if failed
        pa.field("confidence", pa.float32()),  # mean over valid pixels; null where the expert tells none
        pa.field("error", pa.string()),  # why there is no label; null if there is one
        pa.field("code", pa.string()),  # `Failure.code` of it; null if there is a label, or in old rows
    ]
)
OLD_SCHEMA = pa.schema(list(SCHEMA)[:-1])
"""The rows of stores that were made before failures had codes."""

SUFFIXES = (".tar", ".parquet")
"""The files of a shard; the last one commits it."""

NAME = 100
"""Bytes of a member's name in its header; longer ones, and those that are not ASCII, are in a member before."""

MARKS = EXPERT_MARK, TAR_MARK, SOURCE_MARK = "expert", "tar_sha256", "source"
"""What a shard's parquet says beside its rows: `Manifest.digest`, the checksum of the tar that belongs to it, and
`clipzoo.readers.shard_fingerprint` of the samples."""


def marks_of(schema: pa.Schema) -> dict[str, str]:
    """`EXPERT_MARK`, `TAR_MARK` and `SOURCE_MARK` of a shard's rows; old shards lack some."""
    found: Mapping[bytes, bytes] = schema.metadata or {}
    return {name: found[name.encode()].decode() for name in MARKS if found.get(name.encode())}


def _size(header: bytes) -> int:
    """The size that a tar's member header states; -1 if that is none."""
    try:
        return int(header[124:135], 8)
    except ValueError:
        return -1


def _other(before: bytes, name: str) -> bool:
    """Whether the PAX record before a member's header gives it another name; one of over a block is not looked at."""
    record = f" path={name}\n".encode()
    return len(record) < BLOCK - 4 and record not in before


def _old_codes(rows: pa.Table) -> pa.ChunkedArray:
    """Return the codes of rows without any: those of samples that were not downloaded are known by their text."""
    not_downloaded = pc.fill_null(pc.starts_with(rows["error"], "not downloaded"), False)
    return pc.if_else(not_downloaded, "not-downloaded", pa.scalar(None, pa.string()))


def failures(rows: pa.Table) -> dict[str, Failure]:
    """Return key -> reason of the rows without a label."""
    failed = rows.filter(pc.is_null(rows["size"])).select(["key", "error", "code"]).to_pylist()
    return {row["key"]: Failure(row["code"] or "unusable", row["error"] or "no reason is stored") for row in failed}


class Column:
    """The labels of one expert over a dataset."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self.manifest = Manifest.read(path)

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
        """``<task>/<slug>``: what recipes, plans and batches call this column."""
        return f"{self.task}/{self.slug}"

    @property
    def convention(self) -> Convention:
        """What the labels mean beyond their task."""
        return Convention.from_json(self.manifest.convention)

    @property
    def card(self) -> ExpertCard:
        """The card of the expert whose labels these are, as the manifest keeps it."""
        known = {field.name for field in fields(ExpertCard)}
        stored = {**self.manifest.expert, "license": self.manifest.expert.get("licence", "unknown")}
        kept = {name: value for name, value in stored.items() if name in known}
        return ExpertCard(**{**kept, "task": self.task, "convention": self.convention, "name": self.slug})

    def file(self, shard: str, suffix: str) -> Place:
        """The path of a shard's file; ``suffix`` is ".tar" or ".parquet".

        Raises:
            StoreError: the shard's name leads out of the column.
        """
        if not safe_name(shard):
            raise StoreError(f"{shard!r} is no name of a shard: it must be a relative path without '..'")
        return self.path / (shard + suffix)

    def committed(self) -> set[str]:
        """Names of the shards that are complete: both of their files are there."""
        tars, tables = self._files()
        return tars & tables

    def halves(self) -> dict[str, str]:
        """Shard -> the suffix of its file that is missing.

        A run that was killed while it committed leaves a tar alone; rows alone are what is left of a damaged shard.
        """
        tars, tables = self._files()
        return {shard: ".parquet" if shard in tars else ".tar" for shard in sorted(tars ^ tables)}

    def void(self) -> bool:
        """Whether there is no label at all, though there may be rows that say why."""
        return not self.halves() and all(rows["size"].null_count == len(rows) for _, rows in self.tables())

    def _files(self) -> tuple[set[str], set[str]]:
        """The shards that have a tar, and those that have rows; by one listing."""
        names = files.below(self.path)
        tars, tables = ({name.removesuffix(end) for name in names if name.endswith(end)} for end in SUFFIXES)
        return tars, tables

    def has(self, shard: str) -> bool:
        """Whether one shard is complete; does not list the others.

        Raises:
            StoreError: its rows are there, and its labels are gone.
        """
        tar, table = (self.file(shard, suffix) for suffix in SUFFIXES)
        there = table.is_file()
        if there and not tar.is_file():
            raise StoreError(
                f"{tar} is gone, and with it the labels of {self.name} in the shard {shard!r}: run again what made the "
                "column (`clipzoo label`, `clipzoo labels import`), which makes what is missing"
            )
        return there

    def rows(self, shard: str) -> pa.Table:
        """The rows of a committed shard, of `SCHEMA`, in the order of the dataset; keys are unique.

        Raises:
            StoreError: the shard is not committed, or its parquet is damaged.
        """
        with self._parquet(shard) as path:
            table = pq.ParquetFile(io.BytesIO(files.read(path))).read()
        if table.schema == OLD_SCHEMA:
            table = table.append_column(SCHEMA.field("code"), _old_codes(table))
        if table.schema != SCHEMA:
            raise StoreError(f"{path} has the columns {table.schema.names}, not {SCHEMA.names}: remove it, label again")
        return table

    def marks(self, shard: str) -> dict[str, str]:
        """`marks_of` a committed shard, from the end of its parquet: the rows are not read.

        Raises:
            StoreError: the shard is not committed, or its parquet is damaged.
        """
        with self._parquet(shard) as path, files.opened(path) as file:
            return marks_of(pq.read_schema(file))

    @contextmanager
    def _parquet(self, shard: str) -> Iterator[Place]:
        """The place of a shard's rows; errors of reading them become `StoreError`."""
        path = self.file(shard, ".parquet")
        try:
            yield path
        except FileNotFoundError as error:
            raise StoreError(f"{self.name} has no committed shard {shard!r}: label it first") from error
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} is damaged ({error}): remove it and label again") from error

    def check_meaning(self, shard: str, marks: Mapping[str, str]) -> None:
        """Raise `StoreError` if a shard with these `marks` was labeled under another manifest than this one."""
        if marks.get(EXPERT_MARK, self.manifest.digest) != self.manifest.digest:
            raise StoreError(
                f"{self.path / MANIFEST} does not describe the labels of the shard {shard!r}: the shard's mark is "
                f"{marks[EXPERT_MARK]}, the manifest's digest is {self.manifest.digest}. The manifest was edited, or "
                "the shard is of another column, so the labels mean something else than it says. Restore the "
                f"manifest's {', '.join(('task', 'convention', *EXPERT))}; if the labels themselves are wrong, remove "
                f"the column (`clipzoo labels rm {self.path.parent.parent} {self.name} --yes`) and label again"
            )

    def check_pictures(self, shard: str, marks: Mapping[str, str], source: str) -> bool:
        """Whether a shard with these `marks` is known to label the samples with this `shard_fingerprint`.

        False if the shard was labeled by a clipzoo that did not keep it.

        Raises:
            StoreError: it labels others.
        """
        if marks.get(SOURCE_MARK, source) != source:
            raise StoreError(
                f"{self.path}: the shard {shard!r} has other samples in the dataset now than those that were labeled: "
                "its keys, or the sizes of its pictures in bytes, have changed. Its labels would be taught to pictures "
                f"that they are not of. Restore the shard, or remove {shard}.parquet and {shard}.tar from this folder "
                "and run again what made the column (`clipzoo label`, `clipzoo labels import`)"
            )
        return SOURCE_MARK in marks

    def warn_unmarked(self, shards: Sequence[str]) -> None:
        """Say of shards for which `check_pictures` was False that nobody can tell."""
        if shards:
            log.warning(
                "%s: %d shards, %s the first, were labeled by a clipzoo that did not keep what their pictures were; "
                "whether the dataset still has the same ones is not checked", self.name, len(shards), shards[0],
            )  # fmt: skip

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """(shard, `rows`) of every committed shard, by the order of names."""
        shards = sorted(self.committed())
        return zip(shards, files.ahead(self.rows, shards, files.threads(self.path)), strict=True)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """The bytes of one label; safe in threads and forked workers.

        Raises:
            LostError: the tar is missing or cannot be opened.
            StoreError: it is shorter than its rows say.
        """
        path = self.file(shard, ".tar")
        try:
            data = read_at(path, offset, size)
        except OSError as error:
            raise LostError(
                f"cannot read {path}: {error.strerror}; mount or restore the store, or remove {shard}.parquet and "
                "label again"
            ) from error
        if len(data) < size:
            raise StoreError(
                f"{path} ends before byte {offset + size}: it is truncated; remove {shard}.parquet and label again"
            )
        return data

    def member(self, shard: str, key: str, offset: int, size: int) -> bytes:
        """`read` of a sample's label, with the tar's header before it, which must be that of this key and size.

        Raises:
            LostError: the tar is missing or cannot be opened.
            StoreError: it is shorter than its rows say.
            LabelError: another member is there: rows and tar are of different runs.
        """
        name = f"{key}.{tasks.get(self.task).extension}"
        long = 0 if name.isascii() and len(name) < NAME else 2 * BLOCK  # PAX keeps such a name in a member before
        before = min(offset, long + BLOCK)
        data = self.read(shard, offset - before, before + size)
        header = data[before - BLOCK : before]
        stored = header[:NAME].rstrip(b"\0").decode("utf-8", "replace")
        if (stored != name and not long) or _size(header) != size or (long and _other(data[:before], name)):
            raise LabelError(
                f"the row of {key!r} leads to the member {stored!r} of {self.file(shard, '.tar')}; rows and tar are of "
                "different runs: label again"
            )
        return data[before:]

    def failures(self) -> Iterator[tuple[str, str, Failure]]:
        """Yield (shard, key, reason) of every sample that has a row and no label."""
        for shard, rows in self.tables():
            for key, failure in failures(rows).items():
                yield shard, key, failure

    def label(self, shard: str, row: Mapping[str, Any]) -> Any:
        """The label of a row (as ``rows(shard).to_pylist()`` gives it), of this column's task.

        Raises:
            StoreError: the row has no label.
            LabelError: its bytes are none, or are of another sample.
        """
        if row["size"] is None:
            raise StoreError(f"{row['key']!r} of {self.name} has no label: {row['error']}")
        return tasks.get(self.task).decode(self.member(shard, row["key"], row["offset"], row["size"]))

    def finish(self, seconds: float = 0.0, **values: Any) -> None:
        """End a run: add a line to ``runs.jsonl`` and sum counts, bytes and seconds into the manifest.

        Counts are taken from the committed shards and seconds from all lines, so that any number of runs, killed
        ones included, sum to the truth. ``seconds`` are those not yet noted with a shard.
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
        """What the labels that are there took; `Manifest.seconds` also has what was labeled and then dropped.

        Of a shard that was labeled anew only the last time counts; where labels of it were kept, all times do.
        """
        spent: dict[str, float] = {}
        for line in runs(self.path):
            if line.get("event") == "shard":
                before = spent.get(line["shard"], 0.0) if line.get("kept") else 0.0
                spent[line["shard"]] = before + float(line["seconds"])
        return sum(spent.values()) if spent else self.manifest.seconds

    def start(self, **values: Any) -> None:
        """Note the beginning of a run and what software it uses."""
        append_run(self.path, event="start", software=software(), **values)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; partial files of writers that died are removed.

        Raises:
            StoreError: another run is writing this column, or links in it lead out of its store.
        """
        root, name = self.path.parent.parent, "/".join(self.path.parts[-2:])
        files.check_inside(root, name, StoreError)
        with alone(self.path, StoreError, "two runs on one column would do the same work"):
            self.sweep()
            yield

    def sweep(self) -> None:
        """Remove partial files; only for who holds the lock and has no writer at work."""
        files.drop_drafts(self.path, but=MANIFEST)  # which is written without the lock


class Store:
    """A folder of columns, or the address of one: s3://bucket/labels."""

    def __init__(self, root: AnyPath | Place) -> None:
        self.root = files.place(root)

    def columns(self, needed: bool = False) -> list[Column]:
        """All columns, sorted by task and slug.

        Raises:
            StoreError: a manifest is damaged; or there is no column, and one is ``needed``.
        """
        found = []
        for column in self.each(needed).values():
            if isinstance(column, StoreError):
                raise column
            found.append(column)
        return found

    def each(self, needed: bool = False) -> dict[str, Column | StoreError]:
        """``<task>/<slug>``, by folders -> the column, or what is wrong with its manifest; sorted.

        Raises:
            StoreError: there is none, and one is ``needed``.
        """
        found = self.names()
        if needed and not found:
            why = "nothing is there" if not self.root.exists() else "no column is in it (TASK/EXPERT/manifest.json)"
            if lost := self.headless():
                why += f", though {', '.join(lost)} has shards whose manifest is lost"
            raise StoreError(
                f"there is no label store at {str(self.root)!r}: {why}; check the path. `clipzoo labels ls FOLDER` "
                "lists the columns of a store, `clipzoo label DATA --expert URI --out FOLDER` makes one"
            )
        return {name: self._opened(name) for name in found}

    def _opened(self, name: str) -> Column | StoreError:
        try:
            return Column(self.root / name)
        except StoreError as error:
            return error

    def column(self, task: str, slug: str) -> Column:
        """One column.

        Raises:
            StoreError: there is none of this name; the message lists what there is.
        """
        return Column(self._folder(task, slug))

    def _folder(self, task: str, slug: str) -> Place:
        path = self.root / task / slug
        if not safe_name(f"{task}/{slug}") or not (path / MANIFEST).exists():
            raise StoreError(f"{self.root} has no column {task}/{slug}; it has: {', '.join(self.names()) or 'none'}")
        return path

    def names(self) -> list[str]:
        """``<task>/<slug>`` of every column, by its folder: of damaged ones, too."""
        return ["/".join(path.parts[-3:-1]) for path in files.nested(self.root, MANIFEST)]

    def headless(self) -> list[str]:
        """``<task>/<slug>`` of folders that hold rows of shards and no manifest, without which they are no column."""
        parts = [name.split("/") for name in files.below(self.root, ".parquet") if not name.startswith(".")]
        return sorted({"/".join(part[:2]) for part in parts if len(part) > 2} - set(self.names()))

    def remove(self, task: str, slug: str) -> None:
        """Remove a column for good; nothing outside the store is touched, whatever links lie in it.

        On a disk the column is gone at once: killed while it deletes, this leaves a folder ``.removed-…`` that is no
        column. In an object store it loses shard after shard: stopped in between, remove it again.

        Raises:
            StoreError: there is no such column, it is in use, or it is a link to elsewhere.
        """
        path = self._folder(task, slug)
        if path.resolve() != self.root.resolve() / task / slug:
            raise StoreError(f"{path} is a link to {path.resolve()}; remove it, or the column there")
        with alone(path, StoreError, "a run would go on with what is removed"), writing(path):
            files.discard(path, self.root, MANIFEST)

    def create(self, card: ExpertCard, dataset: Mapping[str, Any], grows: bool = False) -> Column:
        """The column of an expert over a dataset, made if it is not there yet, or has no label and was another's.

        Args:
            card: who the expert is and what its labels mean.
            dataset: `clipzoo.readers.fingerprint` of the dataset.
            grows: a column over another dataset is given back, too: whoever writes it calls `clipzoo.store.grow`.

        Raises:
            StoreError: the column has other labels, or is over another dataset; the message says which field. Or links
                lead out of the store.
        """
        if not safe_name(f"{card.task}/{card.slug}"):
            raise StoreError(f"the URI {card.uri!r} gives no folder name ({card.slug!r}); give the expert a plain URI")
        files.check_inside(self.root, f"{card.task}/{card.slug}", StoreError)
        path = self.root / card.task / card.slug
        fresh = Manifest.of(card, dataset)
        if (path / MANIFEST).exists():
            held = Manifest.read(path)
            if held.digest != fresh.digest and Column(path).void():
                self.remove(card.task, card.slug)  # a mistake left nothing that could be mixed
                fresh.write(path)
                return Column(path)
            held.same_expert(fresh, path)
            if not grows:
                held.belongs(dataset, path)
        else:
            fresh.write(path)
        return Column(path)
