"""The rows of a shard: their schema, the marks of their parquet file, and the failures among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from clipzoo.types import Failure

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),  # of the label in the shard's tar; null if failed
        pa.field("size", pa.int64()),  # in bytes; null if failed
        pa.field("valid_share", pa.float32(), nullable=False),  # 0 if failed
        pa.field("confidence", pa.float32()),  # mean over valid pixels; null if the expert gives none
        pa.field("error", pa.string()),  # why there is no label; null if there is one
        pa.field("code", pa.string()),  # `Failure.code` of it; null if there is a label, or in old rows
    ]
)


class Row(TypedDict):
    """A row of `SCHEMA`."""

    key: str
    offset: int | None
    size: int | None
    valid_share: float
    confidence: float | None
    error: str | None
    code: str | None


OLD_SCHEMA = pa.schema(list(SCHEMA)[:-1])
"""The rows of stores that were made before failures had codes."""

SUFFIXES = (".tar", ".parquet")
"""The files of a shard; the last one commits it."""

MARKS = EXPERT_MARK, TAR_MARK, SOURCE_MARK = "expert", "tar_sha256", "source"
"""Metadata of a shard's parquet: `Manifest.digest`, the checksum of the shard's tar, and
`clipzoo.readers.shard_fingerprint` of the samples."""


def marks_of(schema: pa.Schema) -> dict[str, str]:
    """Return `EXPERT_MARK`, `TAR_MARK` and `SOURCE_MARK` of a shard's rows. Old shards do not have all of them."""
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    return {name: metadata[name.encode()].decode() for name in MARKS if metadata.get(name.encode())}


def old_codes(rows: pa.Table) -> pa.ChunkedArray:
    """Return the codes of rows without any: those of samples that were not downloaded are known by their text."""
    not_downloaded = pc.fill_null(pc.starts_with(rows["error"], "not downloaded"), False)
    return pc.if_else(not_downloaded, "not-downloaded", pa.scalar(None, pa.string()))


def failures(rows: pa.Table) -> dict[str, Failure]:
    """Return key -> reason of the rows without a label."""
    failed = rows.filter(pc.is_null(rows["size"])).select(["key", "error", "code"]).to_pylist()
    return {row["key"]: Failure(row["code"] or "unusable", row["error"] or "no reason is stored") for row in failed}
