"""Statistics over the labels of a column, and what makes them suspicious."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass

import numpy as np

ENOUGH = 8
"""Least number of equal labels for which a column counts as constant."""

MOST = 0.99
"""A column is suspicious if this share of its labels is constant, or if the share `LOST` of its samples has none."""

LOST = 0.9


@dataclass
class Tally:
    """Statistics over the labels of a column, or of a part of it."""

    samples: int = 0
    labels: int = 0
    decoded: int = 0
    varied: int = 0
    valid: float = 0.0
    """Sum of the valid shares of decoded labels."""
    classes: set[int] | None = None
    """Class ids that occur; None if labels have no classes."""
    contents: set[str] = field(default_factory=set)
    """Digests of at most two different labels."""

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Tally:
        """Return the tally of `to_json`."""
        tally = cls(**values)  # type: ignore[arg-type]  # written by `to_json`
        tally.contents = set(tally.contents)
        tally.classes = None if tally.classes is None else set(tally.classes)
        return tally

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        classes = None if self.classes is None else sorted(self.classes)
        return {**asdict(self), "contents": sorted(self.contents), "classes": classes}

    def add(self, label: object, share: float, data: bytes) -> None:
        """Count a decoded label, its valid share and its bytes."""
        self.decoded += 1
        self.valid += share
        self.varied += _varies(label)
        if isinstance(ids := getattr(label, "ids", None), np.ndarray):
            valid = getattr(label, "valid", None)
            is_map = isinstance(valid, np.ndarray) and valid.shape == ids.shape
            self.classes = (self.classes or set()) | set(np.unique(ids[valid] if is_map else ids).tolist())
        if len(self.contents) < 2:
            self.contents.add(hashlib.sha256(data).hexdigest())

    def merge(self, other: Tally) -> None:
        """Add the statistics of another part of the column."""
        self.samples += other.samples
        self.labels += other.labels
        self.decoded += other.decoded
        self.varied += other.varied
        self.valid += other.valid
        if other.classes is not None:
            self.classes = (self.classes or set()) | other.classes
        self.contents = set(sorted(self.contents | other.contents)[:2])

    def suspicion(self, classes: Sequence[str]) -> str:
        """Return the most important reason why the column is suspicious, or ""."""
        if self.samples >= ENOUGH and self.samples - self.labels >= LOST * self.samples:
            failed = self.samples - self.labels
            return f"{failed} of {self.samples} samples have no label. Fix the expert and label with --retry-failed"
        labels = f"{self.decoded} labels" if self.decoded == self.labels else f"{self.decoded} decoded labels"
        if self.decoded and self.valid == 0:
            return f"all {labels} are unknown everywhere. Check the expert"
        if self.decoded < ENOUGH:
            return ""
        if self.classes is not None and not self.classes:
            return f"none of the {labels} has an object. Check the expert and its score floor"
        if self.classes and not self.varied and len(self.classes) == 1 < len(classes):
            return f"all {labels} have only the class {classes[min(self.classes)]!r}. Check the expert"
        if self.decoded - self.varied >= MOST * self.decoded:
            return f"{self.decoded - self.varied} of the {labels} are constant. Check the expert"
        if len(self.contents) == 1:
            return f"all {labels} are equal. Check that the expert uses the images"
        return ""


def _varies(label: object) -> bool:
    """Return True if an array of the label, except its validity, has two values, or two values in one channel."""
    arrays = {f.name: getattr(label, f.name) for f in fields(label)} if is_dataclass(label) else {}
    valid = arrays.pop("valid", None)
    maps = [value for value in arrays.values() if isinstance(value, np.ndarray)]
    if not maps:
        return True
    for values in (value for value in maps if value.size):
        flat = values.reshape(-1, *values.shape[-2:]) if values.ndim >= 2 else values.reshape(1, 1, -1)
        known = valid if isinstance(valid, np.ndarray) and valid.shape == flat.shape[1:] else np.s_[:, :]
        if any(channel[known].size and np.ptp(channel[known]) > 0 for channel in flat):
            return True
    return False
