"""The contract of a benchmark layout: a file here exports ``read(location) -> Benchmark``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Pictures with classes, captions, or both, undecoded.

    ``targets`` are class indices (empty if there are none), ``captions`` the texts of each picture (empty
    tuples if there are none), ``templates`` hold ``{c}`` where the class name goes.
    """

    keys: tuple[str, ...]
    images: tuple[bytes, ...]
    targets: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
