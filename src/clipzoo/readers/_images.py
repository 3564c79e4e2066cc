"""Image files below a folder, by name: nothing outside of it is read unless that is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.files import Place
from clipzoo.readers._location import Location
from clipzoo.readers.base import IMAGE_BYTES, too_large


@dataclass(frozen=True)
class ImageFolder:
    """Where image files are.

    Attributes:
        root: names are relative to it.
        outside: whether absolute names, ``..`` and links may lead out of it.
    """

    root: Place
    outside: bool = False

    @classmethod
    def of(cls, location: Location) -> ImageFolder:
        """The folder of the options ``root`` and ``outside``; a relative root starts at the table's folder."""
        root = files.join(location.folder, location.options.get("root", ""))
        return cls(root, location.flag("outside"))

    def refuse(self, name: str) -> str:
        """Why a file may not be read, or ""."""
        if "\0" in name or (files.remote(self.root) and any("\ud800" <= c <= "\udfff" for c in name)):
            return f"no file can have this name: {name!r}"
        if self.outside:
            return ""
        if files.leads_out(self.root, name):
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
            with files.regular(self.root / name) as (file, size):
                if size is None:
                    raise SampleError(f"only regular files are read: {name!r} is none")
                if size > most:
                    raise SampleError(too_large("file", size, most))
                return file.read(most)
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
