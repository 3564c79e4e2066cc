"""Image files below a folder, by name; files outside of it are read only if that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.files import Place
from clipzoo.readers._location import Location
from clipzoo.readers.base import IMAGE_BYTES, too_large
from clipzoo.types import Failure


@dataclass(frozen=True)
class ImageFolder:
    """A folder of image files.

    Attributes:
        root: the folder that names are relative to.
        outside: True if absolute names, ``..`` and links may lead out of it.
        second: the folder of names that are not in ``root``, if there is one.
    """

    root: Place
    outside: bool = False
    second: Place | None = None

    @classmethod
    def of(cls, location: Location, table: Place | None = None) -> ImageFolder:
        """Return the folder of the options ``root`` and ``outside``.

        A relative root starts at the folder of ``table``, and images that are not there at the location's folder.
        """
        name, outside = location.options.get("root", ""), location.flag("outside")
        root = files.join(location.folder, name)
        if table is None or name[:1] in ("/", "~") or "://" in name:
            return cls(root, outside)
        own = files.join(table.parent, name)
        return cls(own, outside, None if own == root else root)

    def folder_of(self, name: str) -> Place:
        """Return the folder that a name is relative to."""
        if self.second is None or _is_file(self.root, name) or not _is_file(self.second, name):
            return self.root
        return self.second

    def refuse(self, name: str) -> Failure | None:
        """Return the reason why a file may not be read, or None."""
        if "\0" in name or (files.remote(self.root) and any("\ud800" <= c <= "\udfff" for c in name)):
            return Failure("unsafe-name", f"no file can have this name: {name!r}")
        if not self.outside and files.leads_out(self.root, name):
            detail = f"the file leads out of its folder: {name!r}; allow it with the option outside=yes"
            return Failure("unsafe-name", detail)
        return None

    def read(self, name: str, most: int = IMAGE_BYTES) -> bytes:
        """Return the bytes of a file.

        Raises:
            SampleError: it leads out of the root, is missing, not a regular file, or larger than ``most`` bytes.
        """
        root = self.folder_of(name)
        if failure := ImageFolder(root, self.outside).refuse(name):
            raise failure.error()
        try:
            with files.open_regular(root / name) as (file, size):
                if size is None:
                    raise SampleError(f"only regular files are read: {name!r} is none", "unsafe-name")
                if size > most:
                    raise too_large("file", size, most).error()
                return file.read(most)
        except OSError as error:
            raise SampleError(f"cannot read the file: {error.strerror}: {name!r} in {root}", "cannot-read") from error

    def of_value(self, value: object) -> bytes:
        """Return the bytes of an image field: bytes, a name, or a mapping with either (Hugging Face's Image).

        Raises:
            SampleError: the field has no image, or its file cannot be read.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and "://" in value:
            detail = f"the image is an address: {value!r}; download it first, for example with img2dataset"
            raise SampleError(detail, "no-image")
        if isinstance(value, str) and value.strip():
            value = self.read(value.strip())
        if not isinstance(value, bytes) or not value:
            if value in (None, b"", ""):
                raise SampleError("the image is empty", "no-image")
            raise SampleError("the image is no bytes and no name", "no-image")
        if len(value) > IMAGE_BYTES:
            raise too_large("image", len(value), IMAGE_BYTES).error()
        return value


def _is_file(folder: Place, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
