"""Scores on disk: they know what they were measured on, and are measured anew where that has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.evaluation.measure import Scored

DONE = "done"
"""Written last: what the scores beside it were measured on, and their names."""

Groups = Mapping[str, Mapping[str, Scored]]
"""Row -> group of measures -> scores."""


def kept_scores(
    folder: Path, measure: Callable[[], Groups], identity: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, dict[str, Scored]]:
    """Scores kept as ``<folder>/<row>/<group>.npz``.

    Args:
        folder: of one arm and seed, or of one split of the baselines.
        measure: makes them anew.
        identity: name -> what it was measured with: the preset, and the identity of each split's benchmark.
        say: told in a line why scores that are there are not used.
    """
    done, why = _done(folder)
    if done is not None and (changed := [n for n in identity if done["identity"].get(n) != identity[n]]):
        why = f"{', '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed"
    if not why and done is not None:
        try:
            return _load(folder, done["scores"])
        except DatasetError as error:
            why = str(error)
    if why:
        say(f"the scores in {folder} are measured anew: {why}")
    shutil.rmtree(folder, ignore_errors=True)
    names = []
    for row, groups in measure().items():
        for group, scored in groups.items():
            scored.save(folder / row / f"{group}.npz")
            names.append(f"{row}/{group}")
    files.write(folder / DONE, json.dumps({"identity": dict(identity), "scores": names}, indent=1).encode())
    return _load(folder, names)


def _done(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """(what the mark says, what is wrong with it); neither where nothing was measured yet."""
    path = folder / DONE
    if not path.exists():
        return None, ""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {"identity": dict(told["identity"]), "scores": [str(name) for name in told["scores"]]}, ""
    except (ValueError, KeyError, TypeError):
        return None, "they do not say which benchmark they were measured on"


def _load(folder: Path, names: list[str]) -> dict[str, dict[str, Scored]]:
    found: dict[str, dict[str, Scored]] = {}
    for name in sorted(names):
        row, _, group = name.partition("/")
        found.setdefault(row, {})[group] = Scored.load(folder / row / f"{group}.npz")
    return found
