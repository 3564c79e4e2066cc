"""Writing of one shard of a column, atomically."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipzoo import files, tasks
from clipzoo.errors import StoreError
from clipzoo.experts.base import sha256
from clipzoo.files import PartialFile
from clipzoo.readers.webdataset import add_member
from clipzoo.store.column import Column
from clipzoo.store.manifest import writing
from clipzoo.store.rows import EXPERT_MARK, SCHEMA, SOURCE_MARK, TAR_MARK, Row
from clipzoo.types import Failure


class ColumnWriter:
    """Writes the labels and rows of a shard, and commits at the end of the ``with`` block unless it raises.

    Args:
        column: the column to write to.
        shard: the shard's name; only one writer per shard at a time.
        keys: the shard's keys in their order, if known. Rows are then stored in this order, and each key needs one.
        source: `clipzoo.readers.shard_fingerprint` of the shard, to recognize it in a dataset that has grown.
    """

    def __init__(self, column: Column, shard: str, keys: Sequence[str] | None = None, source: str = "") -> None:
        self.column, self.shard, self.keys, self.source = column, shard, keys, source
        self._task = tasks.get(column.task)
        self._convention = column.convention
        self._tar_path, self._parquet_path = column.file(shard, ".tar"), column.file(shard, ".parquet")
        self._rows: dict[str, Row] = {}
        self._tar: tarfile.TarFile | None = None
        self._partial: list[PartialFile] = []  # of the tar, then of the rows
        self.replaced = False
        """True if the commit has replaced existing labels."""

    @property
    def failures(self) -> int:
        """The number of rows without a label so far."""
        return sum(row["error"] is not None for row in self._rows.values())

    def __enter__(self) -> ColumnWriter:
        with writing(self._tar_path):
            self._partial = [PartialFile(self._tar_path)]
            self._tar = tarfile.open(self._partial[0].path, "w", format=tarfile.PAX_FORMAT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tar is not None
        try:
            with writing(self._tar_path) if kind is None else suppress(OSError):
                self._tar.close()
            if kind is None:
                self._commit()
        finally:
            for partial in self._partial:
                partial.discard()

    def add(self, key: str, label: object) -> None:
        """Check, encode and write a label.

        Raises:
            LabelError: the label breaks its task's contract. Nothing is written: call `fail` for the key instead.
        """
        self.copy(key, *self.encode(label))

    def encode(self, label: object) -> tuple[bytes, float, float | None]:
        """Check a label and return (bytes, valid share, confidence) for `copy`. May run in any thread.

        Raises:
            LabelError: the label breaks its task's contract.
        """
        self._task.check(label, self._convention)
        return (
            self._task.encode_as(label, self.column.manifest.codec),
            self._task.valid_share(label),
            _confidence(label),
        )

    def copy(self, key: str, data: bytes, valid_share: float, confidence: float | None) -> None:
        """Write an encoded label."""
        assert self._tar is not None, "use the writer in a with block"
        self._unique(key)
        with writing(self._tar_path):
            offset, size = add_member(self._tar, f"{key}.{self._task.extension}", data)
        self._tar.members.clear()  # type: ignore[attr-defined]  # only the offsets are needed
        self._rows[key] = {
            "key": key, "offset": offset, "size": size, "valid_share": valid_share, "confidence": confidence,
            "error": None, "code": None,
        }  # fmt: skip

    def fail(self, key: str, reason: Failure | str) -> None:
        """Store why a sample has no label; a plain text has the code ``unusable``."""
        self._unique(key)
        failure = reason if isinstance(reason, Failure) else Failure("unusable", reason)
        self._rows[key] = {
            "key": key, "offset": None, "size": None, "valid_share": 0.0, "confidence": None,
            "error": failure.detail.encode("utf-8", "backslashreplace").decode() or "no reason was given",
            "code": failure.code,
        }  # fmt: skip

    def _unique(self, key: str) -> None:
        if key in self._rows:
            raise StoreError(f"{self.column.name}: the key {key!r} occurs twice in the shard {self.shard!r}")

    def _ordered(self) -> list[Row]:
        if self.keys is None:
            return list(self._rows.values())
        missing = [key for key in self.keys if key not in self._rows]
        if missing or len(self.keys) != len(self._rows):
            raise StoreError(
                f"{self.column.name}, shard {self.shard!r}: {len(self._rows)} rows for {len(self.keys)} samples"
                + (f"; {missing[0]!r} has none" if missing else "")
            )
        return [self._rows[key] for key in self.keys]

    def _commit(self) -> None:
        table = pa.Table.from_pylist(self._ordered(), schema=SCHEMA)
        with writing(self._parquet_path):
            self._partial.append(PartialFile(self._parquet_path))
            labels, rows = self._partial
            marks = {EXPERT_MARK: self.column.manifest.digest, TAR_MARK: sha256(labels.path)}
            marks |= {SOURCE_MARK: self.source} if self.source else {}
            pq.write_table(table.replace_schema_metadata(marks), files.for_arrow(rows.path), compression="zstd")
            there = self._tar_path.is_file() and self._parquet_path.is_file()
            if there and files.read(self._parquet_path) == rows.path.read_bytes():
                return  # another writer was faster, and wrote the same: keep the shard committed
            self.replaced = there
            # Without its commit mark the shard is not read while the tar is being replaced.
            self._parquet_path.unlink(missing_ok=True)
            labels.commit()
            rows.commit()


def _confidence(label: object) -> float | None:
    """Return the mean confidence over the label's valid pixels, if it has one."""
    confidence = getattr(label, "confidence", None)
    if confidence is None:
        return None
    values = np.asarray(confidence, dtype=np.float64)
    valid = getattr(label, "valid", None)
    if isinstance(valid, np.ndarray) and valid.shape == values.shape:
        values = values[valid]
    return float(values.mean()) if values.size else None
