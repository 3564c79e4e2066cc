"""Image files below a folder, by name: nothing outside of it is read unless that is allowed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipzoo.errors import SampleError
from clipzoo.readers._location import Location
from clipzoo.readers.base import IMAGE_BYTES, too_large


@dataclass(frozen=True)
class ImageFolder:
    """Where image files are.

    Attributes:
        root: names are relative to it.
        outside: whether absolute names, ``..`` and links may lead out of it.
    """

    root: Path
    outside: bool = False

    @classmethod
    def of(cls, location: Location, default: Path | None = None) -> ImageFolder:
        """The folder of the options ``root`` and ``outside``; a relative root starts at the table's folder."""
        root = (default or location.folder) / Path(location.options.get("root", "")).expanduser()
        return cls(root, location.flag("outside"))

    def refuse(self, name: str) -> str:
        """Why a file may not be read, or ""."""
        if "\0" in name:
            return f"no file can have this name: {name!r}"
        if self.outside:
            return ""
        real, root = (os.path.realpath(path) for path in (self.root / name, self.root))
        if Path(name).is_absolute() or ".." in Path(name).parts or os.path.commonpath([real, root]) != root:
            return f"the file leads out of its folder: {name!r}; allow it with the option outside=yes"
        return ""

    def read(self, name: str, most: int = IMAGE_BYTES) -> bytes:
        """The bytes of a file.

        Raises:
            SampleError: it leads out of the root, is not there, no regular file, or larger than ``most`` bytes.
        """
        reason = self.refuse(name)
        if reason:
            raise SampleError(reason)
        try:
            # A named pipe would otherwise block for ever.
            number = os.open(self.root / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(number)
                if not stat.S_ISREG(found.st_mode):
                    raise SampleError(f"only regular files are read: {name!r} is none")
                if found.st_size > most:
                    raise SampleError(too_large("file", found.st_size, most))
                with open(number, "rb", closefd=False) as file:
                    return file.read(most)
            finally:
                os.close(number)
        except OSError as error:
            raise SampleError(f"cannot read the file: {error.strerror}: {name!r} in {self.root}") from error

    def of_value(self, value: Any) -> bytes:
        """The bytes of an image field: bytes, a name, or a mapping with either (Hugging Face's Image).

        Raises:
            SampleError: there are none.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and "://" in value:
            raise SampleError(f"the image is an address: {value!r}; download it first, for example with img2dataset")
        if isinstance(value, str) and value.strip():
            value = self.read(value.strip())
        if not isinstance(value, bytes) or not value:
            raise SampleError("the image is empty" if value in (None, b"", "") else "the image is no bytes and no name")
        if len(value) > IMAGE_BYTES:
            raise SampleError(too_large("image", len(value), IMAGE_BYTES))
        return value
