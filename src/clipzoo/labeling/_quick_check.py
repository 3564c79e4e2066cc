"""A short look at experts before they label: the conformance kit's, on the first pictures that they will see."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from clipzoo.conformance import short
from clipzoo.experts import Expert, ExpertInput
from clipzoo.importers.base import SampleExpert
from clipzoo.labeling.samples import decode
from clipzoo.readers import Reader

log = logging.getLogger(__name__)

PICTURES = 8
ENTRIES = 200
"""So many samples are tried for them, where many are broken."""


def warn(found: Iterable[str]) -> None:
    """Tell what `look` saw."""
    for line in found:
        log.warning("%s (`clipzoo experts check` looks closer)", line)


def quick_check(reader: Reader, shards: Iterable[str], experts: Sequence[Expert]) -> list[str]:
    """Which loaded experts' labels are unsound, not repeatable, other in a batch, or do not follow a mirror.

    Those that look labels up, or make them of others, are taken as they are; where captions are read, nothing is
    mirrored.
    """
    asked = [expert for expert in experts if not (expert.reads or isinstance(expert, SampleExpert))]
    pictures = _first(reader, shards) if asked else []
    found = [(expert.card.uri, verdict) for expert in asked for verdict in short(expert, pictures)]
    return [f"{uri}: {verdict}" for uri, verdict in found if verdict.status in ("warn", "fail")]


def _first(reader: Reader, shards: Iterable[str]) -> list[ExpertInput]:
    """The first pictures of the shards, `PICTURES` at most."""
    found: list[ExpertInput] = []
    tried = 0
    for shard in shards:
        for entry in reader.index(shard):
            sample = decode(reader, entry)
            if sample.image is not None:
                found.append(ExpertInput(sample.key, sample.image, sample.caption))
            if len(found) == PICTURES or (tried := tried + 1) == ENTRIES:
                return found
    return found
