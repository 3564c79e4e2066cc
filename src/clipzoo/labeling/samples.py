"""Samples read and decoded, with the reason where that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipzoo.errors import SampleError
from clipzoo.readers import Entry, Reader
from clipzoo.types import Failure, ImageArray, Sample, decode_image


@dataclass(frozen=True, slots=True)
class Decoded:
    """A sample's key with its image, or with the reason why there is none."""

    key: str
    image: ImageArray | None
    failure: Failure | None = None
    caption: str = ""


def _admit_all(pixels: int) -> None:
    """Admit pictures of any size."""


def read_image(
    reader: Reader, entry: Entry, admit: Callable[[int], None] = _admit_all
) -> tuple[Sample, ImageArray] | Failure:
    """Return a sample and its image, or the reason why it cannot be used; a `RemoteError` is raised.

    ``admit`` is told of the image's pixels before they are decoded, and may raise `NoRoomError`.
    """
    if entry.failure is not None:
        return entry.failure
    try:
        sample = reader.read(entry)
        return sample, decode_image(sample.image, admit=admit)
    except SampleError as error:
        return Failure.of(error)
    except (MemoryError, OSError) as error:
        return Failure("cannot-read", f"cannot read the sample: {type(error).__name__}: {error}")


def decode(reader: Reader, entry: Entry, admit: Callable[[int], None] = _admit_all) -> Decoded:
    """Read and decode one sample; what is wrong with it becomes its ``failure``. ``admit`` is as of `read_image`."""
    found = read_image(reader, entry, admit)
    if isinstance(found, Failure):
        return Decoded(entry.key, None, found)
    sample, image = found
    return Decoded(entry.key, image, caption=sample.caption)
