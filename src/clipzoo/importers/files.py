"""Existing labels as files, found by sample key: ``files:labels/?task=depth&kind=metric&…``.

The options state the meaning of the values (docs/labels.md). The label of the sample ``a/b`` is ``labels/a/b.png`` (a
PNG, TIFF, NPY or HDF5 with one array), or the name that ``pattern`` makes of ``a/b``. A missing or invalid file is a
failed row with its reason. A label may be smaller or larger than its image, but must show all of it: its aspect is
compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import split
from clipzoo.importers import _meaning, arrays, base
from clipzoo.importers._meaning import DepthMeaning, MapLabel, Meaning, NamedOptions
from clipzoo.importers._reading import hdf5
from clipzoo.importers.base import Importer, inside
from clipzoo.types import Size


class FilesOptions(NamedOptions):
    """Options of label files."""

    suffix: str = Field(
        "",
        description="the end of file names after the key, as _depth.png; by default .png, .npy, .tif, .tiff, .hdf5 or "
        ".h5",
    )


def create(name: str) -> Files:
    """Return the importer of ``folder?task=…&…``.

    Raises:
        ExpertError: the folder does not exist, or options are missing or invalid.
    """
    folder, _, query = name.partition("?")
    given = split(query)
    options, meaning = _meaning.parse(FilesOptions, given, "files")
    card = _meaning.card(f"files:{name}", given, options, meaning)
    importer = Files(base.folder(folder, f"files:{name}"), options, meaning, card)
    if importer.suffixes[0].endswith(hdf5.SUFFIXES):
        hdf5.require()
    return importer


class Files(Importer):
    """Existing labels in a folder, one file per sample."""

    def __init__(self, folder: Path, options: FilesOptions, meaning: Meaning, card: ExpertCard) -> None:
        super().__init__()
        self.folder, self.options, self.meaning, self.card = folder, options, meaning, card
        encoding = meaning.format if isinstance(meaning, DepthMeaning) else None
        suffix = options.suffix or (encoding.suffix if encoding else "")
        self.suffixes = (suffix,) if suffix else arrays.SUFFIXES
        self.mask = encoding.mask if encoding else ""

    def place(self, key: str) -> str | None:
        """Return the path of the file."""
        path = self._path(key)
        return None if path is None else str(path)

    def state(self, key: str) -> str:
        """See `Expert.state`."""
        path = self._path(key)
        if path is None:
            return ""
        mask = f" {files.state(self._mask_of(path))}" if self.mask else ""
        return f"{path.suffix} {files.state(path)}{mask}"

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        some = itertools.islice((path for path in self.folder.rglob("*") if path.is_file()), 3)
        names = ", ".join(repr(str(path.relative_to(self.folder))) for path in some)
        advice = "suffix= sets the end of file names after the key, pattern= makes other names of keys"
        return f"the folder has {names or 'no file'}; {advice}"

    def look_up(self, key: str, size: Size) -> MapLabel:
        """See `Importer.look_up`."""
        path = self._path(key)
        if path is None:
            name = self.options.named(key)
            if name is None:
                raise SampleError(f"no label file: pattern= does not fit the key {key!r}", "no-label")
            detail = f"no label file: {self.folder} has no {' or '.join(self._names(name))}"
            raise SampleError(detail, "no-label")
        values = self.meaning.read(path)
        values = self._masked(values, path) if self.mask else values
        return _meaning.fitting(values, self.meaning, size, path, self.notes)

    def _names(self, name: str) -> list[str]:
        return [name + suffix for suffix in self.suffixes]

    def _path(self, key: str) -> Path | None:
        name = self.options.named(key)
        if name is None:
            return None
        inside(name)
        return next((path for path in map(self.folder.joinpath, self._names(name)) if path.is_file()), None)

    def _mask_of(self, path: Path) -> Path:
        return path.with_name(path.stem + self.mask)

    def _masked(self, values: arrays.Values, path: Path) -> arrays.Values:
        """Return depth with not-a-number where the mask next to the file is 0."""
        mask = arrays.read(self._mask_of(path))
        if mask.shape != values.shape:
            raise SampleError(f"the mask of {path} is of another size: {list(mask.shape)} for {list(values.shape)}")
        return np.where(mask > 0, values, np.nan)
