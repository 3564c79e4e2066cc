"""The quick check of experts before they label: conformance tests on the first images of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from clipzoo import conformance
from clipzoo.experts import Expert, ExpertInput
from clipzoo.readers import Reader
from clipzoo.readers.decode import decode

log = logging.getLogger(__name__)

PICTURES = 8
ENTRIES = 200
"""Most samples that are read to find `PICTURES` usable ones."""


def warn(lines: Iterable[str]) -> None:
    """Log the results of `quick_check`."""
    for line in lines:
        log.warning("%s (run `clipzoo experts check` for the full check)", line)


def quick_check(reader: Reader, shards: Iterable[str], experts: Sequence[Expert]) -> list[str]:
    """Return warnings about loaded experts: labels that are unsound, not repeatable, or change in a batch or a mirror.

    Imported and derived labels are not checked. Images of experts that read captions are not mirrored.
    """
    checked = [expert for expert in experts if not (expert.reads or expert.imports)]
    pictures = _first(reader, shards) if checked else []
    verdicts = [
        (expert.card.uri, verdict) for expert in checked for verdict in conformance.quick_check(expert, pictures)
    ]
    return [f"{uri}: {verdict}" for uri, verdict in verdicts if verdict.status in ("warn", "fail")]


def _first(reader: Reader, shards: Iterable[str]) -> list[ExpertInput]:
    """Return the first usable images of the shards, at most `PICTURES`."""
    inputs: list[ExpertInput] = []
    tried = 0
    for shard in shards:
        for entry in reader.index(shard):
            sample = decode(reader, entry)
            if sample.image is not None:
                inputs.append(ExpertInput(sample.key, sample.image, sample.caption))
            if len(inputs) == PICTURES or (tried := tried + 1) == ENTRIES:
                return inputs
    return inputs
