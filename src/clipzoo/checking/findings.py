"""Findings of a check: counts of constant size, and 8 bytes of hash per sample to find duplicates."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from clipzoo.checking import duplicates
from clipzoo.checking.captions import language, script, suspicions
from clipzoo.types import Failure

EXAMPLES = 6
"""Number of samples that are recorded for each finding."""

SHOWN = 24
"""Number of samples that the page shows at random."""

KINDS = 200
"""Number of different reasons that are counted separately; others count as "another reason"."""

REPEATED = 10
"""A caption with at least so many samples is boilerplate."""

SIDES = (32, 64, 128, 224, 336, 512, 1024, 2048)
ASPECTS = ((0.0, "below 1:3"), (1 / 3, "1:3 to 2:3"), (2 / 3, "2:3 to 3:2"), (1.5, "3:2 to 3:1"), (3.0, "above 3:1"))

Place = tuple[str, int]
"""(shard, number of the entry in it)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Facts of one sample. With a ``failure``, ``advice`` is the location that would read it, and the rest is empty.

    ``sideways`` is the rotation that a usable picture needs.
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


@dataclass
class Finding:
    """Number of samples with a property, and the places of some; ``advice`` has locations that read them."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    example: str = ""
    advice: Counter[str] = field(default_factory=Counter)

    def add(self, place: Place, example: str = "", advice: str = "") -> None:
        """Count a sample."""
        self.count += 1
        if advice and (advice in self.advice or len(self.advice) < EXAMPLES):
            self.advice[advice] += 1
        self.example = self.example or example
        if len(self.places) < EXAMPLES:
            self.places.append(place)


@dataclass
class Again:
    """Duplicates: ``groups`` of places, the largest first, at most `SHOWN` of them.

    ``samples`` counts those after the first of each group; ``of`` counts all groups.
    """

    of: int = 0
    samples: int = 0
    groups: list[tuple[int, list[Place]]] = field(default_factory=list)


@dataclass
class Findings:
    """Summary of a dataset.

    Attributes:
        location: of the dataset.
        shards: number of its shards.
        seen: number of checked samples; ``of_all`` is true if these are all samples.
        usable: samples with a picture and a caption.
        broken: kind of reason -> finding.
        suspicious: property of captions -> finding.
        formats, sides, aspects, scripts, languages: name -> number of samples; no languages if none could be detected.
        sideways: pictures that are not rotated as their EXIF record requires.
        flat: pictures of nearly one color, which are left out of ``near``.
        equal, near: identical and nearly identical pictures.
        repeated: captions of at least `REPEATED` samples.
        stopped: the signal that ended the check early, or "".
        seconds: duration.
    """

    location: str
    shards: int
    of_all: bool = True
    seen: int = 0
    usable: int = 0
    broken: dict[str, Finding] = field(default_factory=dict)
    suspicious: dict[str, Finding] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    aspects: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    sideways: Finding = field(default_factory=Finding)
    flat: Finding = field(default_factory=Finding)
    equal: Again = field(default_factory=Again)
    near: Again = field(default_factory=Again)
    repeated: Again = field(default_factory=Again)
    drawn: list[Place] = field(default_factory=list)
    stopped: str = ""
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
        """The samples that follow are of this shard, and all of it if it is looked at as a ``whole``."""
        self._starts.append((shard, self.usable))
        self.of_all &= whole

    def add(self, number: int, one: Seen) -> None:
        """Note the sample that is entry ``number`` of its shard."""
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
        self._lengths.append(len(one.caption))
        self._captions.append(hash64(one.caption.encode()))
        self.scripts[script(one.caption)] += 1
        if (told := language(one.caption)) is not None:
            self.languages[told] += 1
        for odd in suspicions(one.caption, one.key):
            self.suspicious.setdefault(odd, Finding()).add(place)

    def end(self, shards: int) -> None:
        """Find duplicates after all samples of ``shards`` shards were added."""
        self.of_all &= not self.stopped and shards == self.shards
        everyone = np.arange(self.usable)
        self.equal = self._again(duplicates.equal(np.array(self._digests, np.uint64)), everyone)
        self.near = self._again(duplicates.near(np.array(self._dhashes, np.uint64)), np.array(self._hashed, np.int64))
        shared = [g for g in duplicates.equal(np.array(self._captions, np.uint64)) if len(g) >= REPEATED]
        self.repeated = self._again(shared, everyone)

    def lengths(self) -> tuple[int, int, int]:
        """Characters of captions: the 5th, 50th and 95th percentile; zeros if there are none."""
        if not self._lengths:
            return 0, 0, 0
        low, middle, high = np.percentile(np.array(self._lengths), (5, 50, 95), method="nearest")
        return int(low), int(middle), int(high)

    def _picture(self, place: Place, one: Seen) -> None:
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

    def _draw_from(self, place: Place) -> None:
        """Keep `SHOWN` samples, each as likely as any other."""
        if len(self.drawn) < SHOWN:
            self.drawn.append(place)
        elif (at := self._draw.randrange(self.usable + 1)) < SHOWN:
            self.drawn[at] = place

    def _again(self, groups: list[np.ndarray], of: np.ndarray) -> Again:
        shown = [(len(group), [self._place(int(of[i])) for i in group[:EXAMPLES]]) for group in groups[:SHOWN]]
        return Again(len(groups), sum(len(group) - 1 for group in groups), shown)

    def _place(self, usable: int) -> Place:
        shard = next(shard for shard, start in reversed(self._starts) if start <= usable)
        return shard, self._ordinals[usable]


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def side_of(side: int) -> str:
    """The class of a length in pixels."""
    least = max((s for s in SIDES if s <= side), default=0)
    above = next((s for s in SIDES if s > side), None)
    return f"{least} to {above - 1} px" if above else f"{least} px and more"
