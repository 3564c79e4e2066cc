"""A Hugging Face dataset on disk: the folder that ``save_to_disk`` of a ``Dataset`` or ``DatasetDict`` wrote.

The Arrow files are mapped into memory for random access; the package ``datasets`` is not needed. Options:
``image``, ``caption``, ``key``, ``root``, ``outside`` as for CSV tables, and ``split`` to read one of several.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import cast
from uuid import uuid4

import pyarrow as pa

from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at, size
from clipzoo.readers._location import Location
from clipzoo.readers._rows import OPTIONS, Columns, NumberedReader, Part, columns_of_text, cut, digest, named, states_of
from clipzoo.readers._samples.images import ImageFolder

STATE, SPLITS = "state.json", "dataset_dict.json"
END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end mark of an Arrow stream."""


class HuggingFace(NumberedReader):
    """Arrow files of a saved dataset, mapped into memory."""

    def __init__(self, location: Location, paths: Mapping[str, Path]) -> None:
        self.mark = uuid4().hex  # a later reader of the same paths may find other files
        states = states_of(paths.values())
        columns: dict[Place, Columns] = {}
        parts: dict[str, Part] = {}
        for name, path in paths.items():
            file = _mapped(path, self.mark)
            if file.names:
                columns[path] = Columns.of(file.names, location, path, file.texts)
            parts |= named(name, cut(path, file.starts[-1], file.fault))
        if not columns:
            why = next((part.fault for part in parts.values()), f"its {STATE} names no files; save it again")
            raise DatasetError(f"no file of {location.path} can be read: {why}")
        super().__init__(location, parts, columns, states)
        self.identity = digest([path.stat().st_size for path in paths.values()])

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True for a folder with the files that ``save_to_disk`` writes."""
        return location.is_folder and any((location.folder / name).is_file() for name in (STATE, SPLITS))

    @classmethod
    def open(cls, location: Location) -> HuggingFace:
        """Open the dataset in a folder, or the splits in it.

        Raises:
            DatasetError: the folder is incomplete, or columns are missing.
        """
        folders = _splits(location.allow(*OPTIONS, "split"))
        return cls(location, {name: path for split, folder in folders for name, path in _files(split, folder)})

    def row(self, path: Place, number: int, names: Sequence[str]) -> dict[str, object]:
        """See `NumberedReader.row`."""
        return _mapped(Path(str(path)), self.mark).row(number, names)

    def image_folder(self, location: Location, path: Place) -> ImageFolder:
        """Return the folder of the dataset, not of its files; see `RowReader.image_folder`."""
        return ImageFolder.of(location)

    def contents(self, shard: str) -> str:
        """Return a digest of the size of the shard's file."""
        return digest(size(self._part(shard).path))


READER = HuggingFace


class _Mapped:
    """An Arrow stream in a mapped file: its batches, and the reason why it ends early, or ""."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.texts: list[str] = []
        self.fault = ""
        self._batches: list[pa.RecordBatch] = []
        self._validated: set[int] = set()
        try:
            source = pa.memory_map(str(path))
            stream = pa.ipc.open_stream(source)
            self.names, self.texts = stream.schema.names, columns_of_text(stream.schema)
            self._batches.extend(stream)
            if read_at(path, source.size() - len(END), len(END)) != END:
                self.fault = "the file has no end mark: it is truncated; write it again"
        except (pa.ArrowException, OSError) as error:
            self.fault = f"the file is truncated or damaged here: {error}"
        self.starts = [0, *accumulate(batch.num_rows for batch in self._batches)]

    def row(self, number: int, names: Sequence[str]) -> dict[str, object]:
        """Return the fields ``names`` of a row; a batch is validated before its offsets are used."""
        at = bisect.bisect_right(self.starts, number) - 1
        try:
            if at not in self._validated:
                self._batches[at].validate(full=True)
                self._validated.add(at)
            batch = self._batches[at].select(list(names))
            values: dict[str, object] = batch.slice(number - self.starts[at], 1).to_pylist()[0]
        except (pa.ArrowException, IndexError, KeyError, ValueError) as error:
            raise SampleError(f"row {number} of {self.path.name} cannot be read: {error}", "cannot-read") from error
        return values


@lru_cache(maxsize=64)
def _mapped(path: Path, reader: str) -> _Mapped:
    """Return the mapped file; ``reader`` separates the cache entries of readers."""
    return _Mapped(path)


def _splits(location: Location) -> Iterator[tuple[str, Path]]:
    """Yield (prefix of the shard names, folder) of every requested split."""
    wanted, folder = location.options.get("split"), location.on_disk("a dataset of save_to_disk")
    if not (folder / SPLITS).is_file():
        if wanted is not None:
            raise DatasetError(f"{location.text!r}: there are no splits in {folder}; leave out split=")
        yield "", folder
        return
    splits = [str(name) for name in cast(Sequence[object], _json(folder / SPLITS).get("splits", []))]
    if wanted is not None and wanted not in splits:
        raise DatasetError(f"{location.text!r}: there is no split {wanted!r}; there are: {', '.join(splits)}")
    for name in [wanted] if wanted is not None else sorted(splits):
        if Path(name).name != name:
            raise DatasetError(f"{folder / SPLITS} names {name!r}, not a folder next to it; copy the folder again")
        yield f"{name}/", folder / name


def _files(prefix: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of a dataset's Arrow files in their order."""
    state = _json(folder / STATE)
    if any(value for name, value in state.items() if "indices" in name):
        raise DatasetError(
            f"{folder} holds a selection of rows (indices) and all rows; write it again with an up-to-date `datasets`, "
            "or by dataset.flatten_indices().save_to_disk(…)"
        )
    for file in cast(Sequence[Mapping[str, object]], state.get("_data_files", [])):
        name = str(file.get("filename"))
        if Path(name).name != name or not (folder / name).is_file():
            raise DatasetError(f"{folder / STATE} names {name!r}, not a file next to it; copy the folder again")
        yield prefix + name, folder / name


def _json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"cannot read {path}: {error}; copy the folder again") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path} is not what save_to_disk writes; copy the folder again")
    return values
