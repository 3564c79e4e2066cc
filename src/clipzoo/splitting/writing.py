"""Writing of parts: ``train/`` as shards, other parts as benchmark folders with ``images/`` and ``classnames.txt``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from clipzoo import files
from clipzoo.checking.engine import form_of
from clipzoo.errors import DatasetError, SampleError
from clipzoo.readers import IMAGES, Entry, Reader
from clipzoo.readers.webdataset import write_shard
from clipzoo.splitting import plan
from clipzoo.splitting.parts import TRAIN

CLASS, CAPTION, JSON = "cls", "txt", "json"
_ENDINGS = {
    "JPEG": "jpg", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "JPEG 2000": "jp2",
    "AVIF": "avif",
}  # fmt: skip
_READ = {*IMAGES, CAPTION, "caption", JSON}
"""Members that a reader takes for the image or a caption."""


def folder_of(out: Path, part: str) -> Path:
    """Return the folder of a part's shards."""
    return out / part if part == TRAIN else out / part / "images"


def write_part(out: Path, part: str, reader: Reader, classnames: Sequence[str], advance: Callable[[int], None]) -> None:
    """Write the shards of a part that are missing, and its class names.

    Raises:
        DatasetError: a sample cannot be read any more.
    """
    folder = folder_of(out, part)
    if classnames:
        files.write(folder / "classnames.txt", "".join(f"{name}\n" for name in classnames).encode())
    index, names = lru_cache(maxsize=2)(reader.index), {plan.text(shard): shard for shard in reader.shards}
    for shard, rows in groupby(plan.rows(out / plan.TABLE, part), lambda row: row["shard"]):
        listed = list(rows)
        path = folder / f"{shard}.tar"
        if not path.exists():
            entries = ((row, index(names[row["source_shard"]])[row["number"]]) for row in listed)
            made = files.map_ahead(lambda pair: (pair[0]["key"], _members(reader, *pair)), entries, reader.threads)
            write_shard(path, made)
        advance(len(listed))


def _members(reader: Reader, row: plan.Row, entry: Entry) -> Mapping[str, bytes]:
    """Return the members of a sample: its image as it is, its captions, its class, and everything else it has."""
    try:
        sample = reader.read(entry)
        others = dict(reader.others(entry))
        fields = {} if others else dict(reader.fields(entry))
    except (SampleError, OSError) as error:
        raise DatasetError(
            f"the sample {entry.key!r} of the shard {entry.shard!r} could be read before, but not now: {error}. Check "
            "the dataset, and rerun the command, which resumes"
        ) from error
    given = _object(others.get(JSON, b""))
    if given is not None:  # else it stays one of the other members
        del others[JSON]
    values = given or {
        name: texts[0] if len(texts) == 1 else list(texts)
        for name, texts in fields.items()
        if name not in (CAPTION, "caption.txt")
    }
    texts = [text for text in (sample.caption, *sample.others) if text]
    members = {_ENDINGS.get(form_of(sample.image), "jpg"): sample.image}
    if len(texts) == 1 and len(texts[0].splitlines()) == 1:
        members[CAPTION] = texts[0].encode()
    elif texts:
        values = {**values, "caption": texts}
    if row["class_index"] is not None:
        members[CLASS] = str(row["class_index"]).encode()
    if values:
        members[JSON] = json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")
    for name, data in others.items():
        members[f"source.{name}" if name in _READ or name in members else name] = data
    return members


def _object(data: bytes) -> dict[str, object] | None:
    """Return an object of JSON; None if the data is another value, or is damaged."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
