"""Reading and decoding of samples, with the reasons of failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipzoo.errors import SampleError
from clipzoo.readers.base import Entry, Reader
from clipzoo.types import Failure, ImageArray, Sample, decode_image


@dataclass(frozen=True, slots=True)
class Decoded:
    """The key of a sample with its image, or with the reason why it has none."""

    key: str
    image: ImageArray | None
    failure: Failure | None = None
    caption: str = ""


def _admit_all(pixels: int) -> None:
    """Admit images of any size."""


def read_image(
    reader: Reader, entry: Entry, admit: Callable[[int], None] = _admit_all
) -> tuple[Sample, ImageArray] | Failure:
    """Return a sample and its image, or the reason why it cannot be used; a `RemoteError` is raised.

    ``admit`` is called with the number of pixels before they are decoded, and may raise `NoRoomError`.
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
    """Read and decode one sample; an error becomes its ``failure``. For ``admit`` see `read_image`."""
    result = read_image(reader, entry, admit)
    if isinstance(result, Failure):
        return Decoded(entry.key, None, result)
    sample, image = result
    return Decoded(entry.key, image, caption=sample.caption)
