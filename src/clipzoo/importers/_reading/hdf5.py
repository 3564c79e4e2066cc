"""HDF5 files that hold one array."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import ExpertError, SampleError
from clipzoo.types import MAX_PIXELS

MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5")


def require() -> ModuleType:
    """Return the package h5py; `ExpertError` if it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ExpertError("HDF5 files need h5py, which is not installed: pip install 'clipzoo[hdf5]'") from error
    module: ModuleType = h5py
    return module


def read(path: Path, data: bytes | None) -> NDArray[np.number]:
    """Return the array of a file, or of its bytes; ``path`` is then used only in errors.

    Links, and arrays whose values are in other files, are not followed.

    Raises:
        ExpertError: h5py is not installed.
        SampleError: no array, several, or one that is too large or elsewhere.
    """
    h5py = require()
    with h5py.File(path if data is None else io.BytesIO(data), "r") as file:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        arrays = [one for one in map(file.get, names) if isinstance(one, h5py.Dataset)]
        if len(arrays) != 1:
            raise SampleError(f"one array is needed: {path} holds {len(arrays)} ({', '.join(names[:5])})")
        (array,) = arrays
        if array.external or array.is_virtual or array.size > 3 * MAX_PIXELS:
            raise SampleError(f"an array that is in other files, or too large: {path}, of shape {array.shape}")
        values: NDArray[np.number] = array[()]
        return values
