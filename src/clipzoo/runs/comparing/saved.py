"""The scores, settings and curves of a finished run, read from its folder; nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipzoo import recipe as recipes
from clipzoo.errors import CheckpointError, shell_word
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.measure import OPEN_VOCABULARY, RECOGNITION, Scored
from clipzoo.evaluation.results import Results
from clipzoo.evaluation.scores import DONE
from clipzoo.recipe import Recipe, flat
from clipzoo.runs.folder import Folder
from clipzoo.runs.interpolation import BEST


@dataclass(frozen=True)
class Saved:
    """A finished run; ``letter`` names its rows."""

    letter: str
    path: Path

    @cached_property
    def folder(self) -> Folder:
        """The paths of the run."""
        return Folder(self.path)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run; none of its code is run."""
        return recipes.load(self.folder.recipe, trust=True)

    @cached_property
    def results(self) -> Results:
        """The contents of ``results.json``; `CheckpointError` if the run has not been measured."""
        if not self.folder.results.exists():
            raise CheckpointError(f"{self.path} has no results.json: run `clipzoo eval {shell_word(self.path)}` first")
        results: Results = json.loads(self.folder.results.read_text(encoding="utf-8"))
        return results

    def scores(self, split: str) -> dict[str, dict[int, RowScores]]:
        """Return row -> seed -> scores on a split. A baseline has the seed 0."""
        rows: dict[str, dict[int, RowScores]] = {}
        for arm, cells in self.results["arms"].items():
            for seed in (0,) if arm == "clip" else self.results["seeds"]:
                folders = self._scores(arm, seed) if cells else []
                groups = {group: one for folder in folders for group, one in _load(folder).get(split, {}).items()}
                if groups:
                    rows.setdefault(arm, {})[seed] = groups
        for row, groups in _load(self.folder.scores("baselines", split)).items():
            rows[row] = {0: groups}
        return rows

    def _scores(self, arm: str, seed: int) -> list[Path]:
        """Return the folders of the scores of an arm: its own, and that of open vocabulary if it is measured."""
        named = self.results.get("named_arms", {}).get(arm)
        folder, row = (Folder(self.path / named["folder"]), "clipzoo") if named else (self.folder, arm)
        if arm.endswith(BEST):
            row, seed = self._measured_as(arm.removesuffix(BEST), seed)
        variant = self.recipe.evaluation.open_vocabulary
        prompted = [folder.scores(f"{OPEN_VOCABULARY}-{variant}", f"{row}-{seed}")] if variant else []
        return [folder.scores(row, seed), *prompted]

    def _measured_as(self, arm: str, seed: int) -> tuple[str, int]:
        """Return the row and seed whose scores an interpolated arm has; α = 0 and 1 have those of start and end."""
        alpha = self.results["interpolation"][arm][str(seed)]["best"]
        if alpha == 0:
            return "clip", 0
        return (arm if alpha == 1 else f"{arm}{BEST}"), seed

    def protocol(self, group: str, split: str) -> dict[str, str]:
        """Return the settings on which the scores of a group of measures depend, in words."""
        identity = _identity(self.folder.scores(next(iter(self.results["arms"])), self._seed))
        known = {"preset": identity.get("preset", "not recorded"), split: identity.get(split, "not recorded")}
        if group in RECOGNITION:
            return known
        if group == OPEN_VOCABULARY:
            return known | {name: str(self.results["protocol"].get(name)) for name in (OPEN_VOCABULARY, "resolution")}
        protocol = {name: str(self.results["protocol"].get(name)) for name in ("resolution", "mask", "alignment")}
        fitted = {name: identity.get(name, "not recorded") for name in ("probe", "validation")}
        return known | fitted | {"layers": str(list(self.recipe.evaluation.layers))} | protocol

    @property
    def _seed(self) -> int:
        return 0 if next(iter(self.results["arms"])) == "clip" else self.results["seeds"][0]

    def settings(self) -> dict[str, object]:
        """Return dotted path -> value of the recipe; columns by their source instead of by number."""
        values = self.recipe.model_dump(mode="json")
        columns = {str(one["expert"] or one["column"]): one for one in values.pop("columns")}
        named = {f"columns.{source}.{name}": value for source, one in columns.items() for name, value in one.items()}
        return flat(values) | named


def _identity(folder: Path) -> Mapping[str, str]:
    path = folder / DONE
    identity: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))["identity"] if path.exists() else {}
    return identity


def _load(folder: Path) -> dict[str, dict[str, Scored]]:
    """Return the scores in a folder, row or split -> group -> scores; empty if there are none."""
    if not (folder / DONE).exists():
        return {}
    names = json.loads((folder / DONE).read_text(encoding="utf-8"))["scores"]
    scores: dict[str, dict[str, Scored]] = {}
    for name in names:
        row, _, group = name.partition("/")
        scores.setdefault(row, {})[group] = Scored.load(folder / row / f"{group}.npz")
    return scores
