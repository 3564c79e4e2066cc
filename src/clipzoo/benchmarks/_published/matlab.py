"""Files of MATLAB: those of version 7.3 are HDF5 and need h5py, older ones need scipy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipzoo.errors import DatasetError

if TYPE_CHECKING:
    import h5py

INSTALL = "pip install 'clipzoo[benchmarks]'"


@contextmanager
def hdf5(path: Path, layout: str, fields: Sequence[str]) -> Iterator[h5py.File]:
    """Open a file of version 7.3.

    Raises:
        DatasetError: h5py is missing, the file is not HDF5, or it has not the fields.
    """
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(f"{layout}: {path} is an HDF5 file; h5py is needed to read it: {INSTALL}") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{layout}: {path} cannot be read as MATLAB 7.3 (HDF5): {error}") from error
    with file:
        _check(path, layout, fields, file)
        yield file


def matlab(path: Path, layout: str, fields: Sequence[str]) -> Mapping[str, object]:
    """Return the fields of a file of an older version.

    Raises:
        DatasetError: scipy is missing, the file cannot be read, or it has not the fields.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(f"{layout}: {path} is a MATLAB file; scipy is needed to read it: {INSTALL}") from error
    try:
        values: Mapping[str, object] = loadmat(path, simplify_cells=True)
    except Exception as error:  # scipy raises many kinds on damaged files
        raise DatasetError(f"{layout}: {path} cannot be read as a MATLAB file: {error}") from error
    _check(path, layout, fields, values)
    return values


def _check(path: Path, layout: str, fields: Sequence[str], values: Mapping[str, object]) -> None:
    missing = [name for name in fields if name not in values]
    if missing:
        found = ", ".join(sorted(name for name in values if not name.startswith(("_", "#"))))
        raise DatasetError(f"{layout}: {path} has no {', '.join(missing)}; it has {found or 'nothing'}")
