"""Findings of a dataset check: counts of constant size, and 8 bytes of hash per sample for duplicates."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipzoo.checking import duplicates
from clipzoo.checking.captions import language, script, suspicions
from clipzoo.types import Failure, hash64

EXAMPLES = 6
"""The number of example places kept for each finding."""

SHOWN = 24
"""The number of samples drawn at random as examples of the dataset."""

KINDS = 200
"""The most kinds of reasons that are counted separately; further kinds count as "another reason"."""

REPEATED = 10
"""The least number of samples that share a boilerplate caption."""

SIDES = (32, 64, 128, 224, 336, 512, 1024, 2048)
ASPECTS = ((0.0, "below 1:3"), (1 / 3, "1:3 to 2:3"), (2 / 3, "2:3 to 3:2"), (1.5, "3:2 to 3:1"), (3.0, "above 3:1"))

Place = tuple[str, int]
"""(shard, number of the entry in it)."""


@dataclass(frozen=True, slots=True)
class ScannedSample:
    """The result of one sample; ``failure`` is the reason why it cannot be used, and other fields are then empty.

    ``advice`` is a location that would read a failed sample. ``sideways`` is an orientation that was not applied.
    ``fields`` are the names of all fields with text.
    """

    key: str
    failure: Failure | None = None
    caption: str = ""
    form: str = ""
    size: tuple[int, int] = (0, 0)
    digest: int = 0
    dhash: int | None = None
    advice: str = ""
    sideways: str = ""
    fields: tuple[str, ...] = ()


@dataclass
class Finding:
    """The number of samples with one property, some of their places, and locations that read them (``advice``)."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    example: str = ""
    advice: Counter[str] = field(default_factory=Counter)

    def add(self, place: Place, example: str = "", advice: str = "") -> None:
        """Count one more sample."""
        self.count += 1
        if advice and (advice in self.advice or len(self.advice) < EXAMPLES):
            self.advice[advice] += 1
        self.example = self.example or example
        if len(self.places) < EXAMPLES:
            self.places.append(place)


@dataclass
class Duplicates:
    """Duplicates: ``groups`` of places, the largest first, at most `SHOWN`.

    ``samples`` counts the samples after the first of each group; ``of`` counts all groups.
    """

    of: int = 0
    samples: int = 0
    groups: list[tuple[int, list[Place]]] = field(default_factory=list)


@dataclass
class Findings:
    """The result of a dataset check.

    Attributes:
        location: the location of the dataset.
        shards: number of its shards.
        of_all: True if all samples were scanned.
        seen: number of scanned samples.
        usable: samples with a picture and a caption, which may be optional.
        broken: kind of reason -> finding.
        uncaptioned: usable samples without a caption, where captions are optional; no finding on captions counts them.
        suspicious: problem of captions -> finding.
        formats, sides, aspects, scripts, languages: name -> number of samples; no languages without a detector.
        fields: field with text -> number of samples, as `training.captions` names them.
        sideways: pictures whose EXIF orientation in the ``.json`` was not applied.
        flat: pictures of nearly one color, which are excluded from ``near``.
        equal, near: pictures that are duplicates to the byte, or nearly.
        repeated: captions that `REPEATED` samples or more share.
        drawn: places of random samples.
        stopped: the signal that ended the check early, or "".
        reused: shards whose results were kept by an earlier check.
        seconds: duration of the check.
    """

    location: str
    shards: int
    of_all: bool = True
    seen: int = 0
    usable: int = 0
    broken: dict[str, Finding] = field(default_factory=dict)
    uncaptioned: Finding = field(default_factory=Finding)
    suspicious: dict[str, Finding] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    aspects: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    sideways: Finding = field(default_factory=Finding)
    flat: Finding = field(default_factory=Finding)
    equal: Duplicates = field(default_factory=Duplicates)
    near: Duplicates = field(default_factory=Duplicates)
    repeated: Duplicates = field(default_factory=Duplicates)
    drawn: list[Place] = field(default_factory=list)
    stopped: str = ""
    reused: int = 0
    seconds: float = 0.0
    _starts: list[tuple[str, int]] = field(default_factory=list)
    _ordinals: array[int] = field(default_factory=lambda: array("I"))  # of the entry in its shard, of usable samples
    _digests: array[int] = field(default_factory=lambda: array("Q"))
    _captions: array[int] = field(default_factory=lambda: array("Q"))
    _dhashes: array[int] = field(default_factory=lambda: array("Q"))
    _hashed: array[int] = field(default_factory=lambda: array("I"))
    _lengths: array[int] = field(default_factory=lambda: array("I"))
    _draw: random.Random = field(default_factory=lambda: random.Random(0))

    def begin(self, shard: str, whole: bool) -> None:
        """Begin a shard; ``whole`` is True if all its samples follow."""
        self._starts.append((shard, self.usable))
        self.of_all &= whole

    def add(self, number: int, one: ScannedSample) -> None:
        """Record the sample of entry ``number`` of the shard."""
        place = (self._starts[-1][0], number)
        self.seen += 1
        if one.failure:
            kind = one.failure.kind
            kind = kind if kind in self.broken or len(self.broken) < KINDS else "another reason"
            self.broken.setdefault(kind, Finding()).add(place, f"{one.key}: {one.failure}", one.advice)
            return
        self._draw_from(place)
        self._ordinals.append(number)
        self.usable += 1
        self._picture(place, one)
        if one.sideways:
            self.sideways.add(place, one.sideways)
        self.fields.update(name for name in one.fields if name in self.fields or len(self.fields) < KINDS)
        self._caption(place, one)

    def end(self, shards: int) -> None:
        """Find duplicates, after all samples of ``shards`` shards were added."""
        self.of_all &= not self.stopped and shards == self.shards
        everyone = np.arange(self.usable)
        digests, dhashes, hashed = self.hashes()
        self.equal = self._duplicates(duplicates.equal(digests), everyone)
        self.near = self._duplicates(duplicates.near(dhashes), hashed)
        captions = np.array(self._captions, np.uint64)
        captioned = np.flatnonzero(captions != hash64(b""))
        shared = [g for g in duplicates.equal(captions[captioned]) if len(g) >= REPEATED]
        self.repeated = self._duplicates(shared, captioned)

    def hashes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
        """Return the digests of usable pictures, and the difference hashes with the indices of their pictures."""
        return (
            np.array(self._digests, np.uint64),
            np.array(self._dhashes, np.uint64),
            np.array(self._hashed, np.int64),
        )

    def usable_places(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (shard, numbers of its usable entries) in the order of `hashes`."""
        ordinals = np.array(self._ordinals, np.int64)
        stops = [*(start for _, start in self._starts[1:]), self.usable]
        for (shard, start), stop in zip(self._starts, stops, strict=True):
            yield shard, ordinals[start:stop]

    @property
    def captioned(self) -> int:
        """The number of usable samples with a caption."""
        return self.usable - self.uncaptioned.count

    def lengths(self) -> tuple[int, int, int]:
        """Return the 5th, 50th and 95th percentile of the captions' characters; zeros without captions."""
        if not self._lengths:
            return 0, 0, 0
        low, middle, high = np.percentile(np.array(self._lengths), (5, 50, 95), method="nearest")
        return int(low), int(middle), int(high)

    def _picture(self, place: Place, one: ScannedSample) -> None:
        height, width = one.size
        self.formats[one.form] += 1
        self.sides[side_of(min(height, width))] += 1
        self.aspects[next(name for least, name in reversed(ASPECTS) if width / height >= least)] += 1
        self._digests.append(one.digest)
        if one.dhash is None:
            self.flat.add(place)
        else:
            self._hashed.append(self.usable - 1)
            self._dhashes.append(one.dhash)

    def _caption(self, place: Place, one: ScannedSample) -> None:
        self._captions.append(hash64(one.caption.encode()))
        if not one.caption:
            self.uncaptioned.add(place)
            return
        self._lengths.append(len(one.caption))
        self.scripts[script(one.caption)] += 1
        detected = language(one.caption)
        if detected is not None:
            self.languages[detected] += 1
        for problem in suspicions(one.caption, one.key):
            self.suspicious.setdefault(problem, Finding()).add(place)

    def _draw_from(self, place: Place) -> None:
        """Keep `SHOWN` samples, drawn uniformly (reservoir sampling)."""
        if len(self.drawn) < SHOWN:
            self.drawn.append(place)
        elif (at := self._draw.randrange(self.usable + 1)) < SHOWN:
            self.drawn[at] = place

    def _duplicates(self, groups: list[np.ndarray], of: np.ndarray) -> Duplicates:
        largest = [(len(group), [self._place(int(of[i])) for i in group[:EXAMPLES]]) for group in groups[:SHOWN]]
        return Duplicates(len(groups), sum(len(group) - 1 for group in groups), largest)

    def _place(self, usable: int) -> Place:
        shard = next(shard for shard, start in reversed(self._starts) if start <= usable)
        return shard, self._ordinals[usable]


def side_of(side: int) -> str:
    """Return the class of a length in pixels."""
    least = max((s for s in SIDES if s <= side), default=0)
    above = next((s for s in SIDES if s > side), None)
    return f"{least} to {above - 1} px" if above else f"{least} px and more"
