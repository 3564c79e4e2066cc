"""The folder of a run: its paths, its lock, and the recipe fields that may change once arms are trained.

recipe.yaml            the complete recipe
.lock                  held by the process that writes here
data/                  packaged data, unpacked or rendered
labels/                the label store, unless the recipe names another
plan.arrow             images joined with labels; plan.json records their sources
arms/<arm>/<seed>/     log.jsonl, tensorboard/, checkpoint.pt during training (and those kept), then student/
arms/<arm>/<seed>/best/  the interpolated student that validation chose; interpolation.json records the choice
arms/<arm>/rates.json  the validation scores of each learning rate of the grid
scores/                additive statistics, one file per arm, seed, split and group; ``done`` records what was measured
results.json           the numbers
page.html              the page
ablation.json          the numbers of ``clipzoo ablate``; ablation.html is its page
ablations/<variant>/   the run of a subset of the columns
base.json              in such a run: the run from which it takes data, labels and arms
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipzoo import files
from clipzoo import recipe as recipes
from clipzoo.errors import CheckpointError, shell_word
from clipzoo.evaluation.scores import DONE
from clipzoo.files import AnyPath, locked
from clipzoo.recipe import Recipe, TrainingRecipe

BASE = "base.json"
FREE = (
    "description", "license", "labeling.", "evaluation.", "interpolation", "arms.", "seeds.", "variants",
    "student.trust_remote_code",
    *(f"training.{name}" for name in sorted(TrainingRecipe.FREE)),
)  # fmt: skip
"""Fields that may change after arms are trained, since no trained arm depends on them."""
CHOOSING = (
    "evaluation.probe", "evaluation.validation", "evaluation.layers", "evaluation.label_stride", "evaluation.layout",
    "evaluation.preset", "seeds.0",
)  # fmt: skip
"""Exceptions to `FREE` if validation chose the learning rate of an arm."""
UNSHARED = ("name", "description", "license", "columns.", "arms.", "variants", "labeling.", "interpolation")
"""Fields in which a run may differ from the one whose trained arms and scores it shares."""

APART = ("evaluation.open_vocabulary", "evaluation.pictures")
"""Fields of the evaluation on which no other scores depend: their scores are kept apart, or they have none."""


class Folder:
    """The paths and the lock of a run.

    Args:
        path: the folder, on a disk; it may not exist yet.
        scratch: where packaged data is unpacked if nothing may be written into ``path``.

    Raises:
        CheckpointError: ``path`` is a file, or it contains a link to another folder.
    """

    def __init__(self, path: AnyPath, scratch: Path | None = None) -> None:
        self.path, self.scratch = files.local(path, "a run's folder"), scratch
        self._locked = False
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file; give --out a folder")
        files.check_inside(self.path, ".", CheckpointError)

    @property
    def recipe(self) -> Path:
        """The file of the complete recipe."""
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        """The folder of packaged and rendered data."""
        return self.scratch or (self.base.folder.data if self.base else self.path / "data")

    @property
    def labels(self) -> Path:
        """The label store of a recipe that names none."""
        return self.base.folder.labels if self.base else self.path / "labels"

    @cached_property
    def base(self) -> Base | None:
        """The run from which this one takes data, labels and arms; None for an ordinary run.

        Raises:
            CheckpointError: its record is damaged, or names a folder that does not contain this one.
        """
        path, here = self.path / BASE, self.path.absolute()
        if not path.exists():
            return None
        here = here.resolve() if ".." in here.parts else here
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            folder = Path(os.path.normpath(here / str(record["run"])))
            arms, rates = tuple(str(arm) for arm in record["arms"]), bool(record["rates"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}: {error}). Delete the folder {self.path}, and rerun "
                "`clipzoo ablate`"
            ) from error
        if folder not in here.parents:
            raise CheckpointError(
                f"{path} names the run {folder}, which does not contain {self.path}. A variant belongs in the "
                "`ablations` folder of its run: move it back, or delete it and rerun `clipzoo ablate`"
            )
        return Base(Folder(folder), arms, rates)

    def share(self, base: Folder, arms: Sequence[str], rates: bool) -> None:
        """Take data, labels and these arms from a run in a folder above; with ``rates``, learning rates, too."""
        run = os.path.relpath(base.path.absolute(), self.path.absolute())
        record = {"run": run, "arms": list(arms), "rates": rates}
        files.write(self.path / BASE, json.dumps(record, indent=1).encode())
        self.__dict__.pop("base", None)

    @property
    def results(self) -> Path:
        """The file of the numbers."""
        return self.path / "results.json"

    @property
    def page(self) -> Path:
        """The file of the page."""
        return self.path / "page.html"

    @property
    def trained(self) -> bool:
        """True if there is a student, the checkpoint of a training, or the trial of a learning rate."""
        arms = self.path / "arms"
        return any(any(arms.glob(f"*/{name}")) for name in ("*/student/done", "*/checkpoint.pt", "rates.json"))

    def arm(self, arm: str) -> Path:
        """Return the folder of an arm."""
        return self._owner(arm).path / "arms" / arm

    def _owner(self, arm: str) -> Folder:
        """Return the folder of the run that an arm belongs to."""
        return self.base.folder._owner(arm) if self.base and arm in self.base.arms else self

    def rates(self, arm: str) -> Path:
        """Return the folder of the trials of an arm's learning rates."""
        return self.base.folder.rates(arm) if self.base and self.base.rates else self.arm(arm)

    def training(self, arm: str, seed: int) -> Path:
        """Return the folder in which an arm is trained from a seed."""
        return self.arm(arm) / str(seed)

    def best(self, arm: str, seed: int) -> Path:
        """Return the folder of the interpolated student of an arm and seed."""
        return self.training(arm, seed) / "best"

    def scores(self, arm: str, name: str | int) -> Path:
        """Return the folder of the scores of an arm and seed, or of ``baselines`` and a split."""
        return self._owner(arm).path / "scores" / arm / str(name)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the folder, which is created if it is missing; calls may be nested.

        Raises:
            CheckpointError: another process holds it.
        """
        if self._locked:
            yield
            return
        files.make_folder(self.path)
        with locked(self.path, CheckpointError, "two runs in one folder would overwrite each other"):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False


@dataclass(frozen=True)
class Base:
    """The run from which another one takes data and labels.

    Attributes:
        folder: of the run.
        arms: whose trainings and scores are taken, too.
        rates: learning rates that validation chose are taken for all arms.
    """

    folder: Folder
    arms: tuple[str, ...]
    rates: bool

    def check(self, recipe: Recipe, path: Path) -> None:
        """Raise `CheckpointError` if the run of a recipe in ``path`` cannot take trained arms from the base."""
        if "clip-ft" not in self.arms:
            return
        changed = recipes.load(self.folder.recipe, trust=True).differences(recipe)
        lines = _lines({name: text for name, text in changed.items() if not name.startswith(UNSHARED)})
        if lines:
            raise CheckpointError(
                f"{path} takes {', '.join(self.arms)} from the run {self.folder.path}, whose recipe differs in more "
                f"than columns. The run has\n{lines}\nRun `clipzoo ablate {shell_word(self.folder.path)}`, which "
                "measures its variants again, or delete the variant"
            )

    def check_trained(self, arm: str, seed: int, path: Path) -> None:
        """Raise `CheckpointError` if the run in ``path`` is to train an arm that it takes from the base."""
        if arm in self.arms:
            raise CheckpointError(
                f"{path} takes {arm} from the run {self.folder.path}, which has not trained it with seed {seed}: run "
                f"`clipzoo train {shell_word(self.folder.path)} --arm {arm} --seed {seed}` first"
            )

    def check_rate(self, arm: str, path: Path) -> None:
        """Raise `CheckpointError` if the run in ``path`` is to choose a learning rate that it takes from the base."""
        if self.rates:
            raise CheckpointError(
                f"{path} takes the learning rate of {arm} from the run {self.folder.path}, which has not chosen it: "
                f"run `clipzoo train {shell_word(self.folder.path)} --arm {arm}` first"
            )


class SavedRecipe:
    """The recipe in the folder of a run, compared with that with which the run was opened.

    Nothing is written before `adopt`, so a command that is refused or fails its checks changes nothing.

    Args:
        folder: of the run.
        recipe: of the run.
        check: raises if a value of these fields is a mistake, which is then the reason for a difference.

    Raises:
        CheckpointError: a trained arm depends on a field in which the recipes differ.
    """

    def __init__(
        self, folder: Folder, recipe: Recipe, check: Callable[[Sequence[str]], None] = lambda fields: None
    ) -> None:
        self._folder, self._recipe = folder, recipe
        self._text = self._read()
        self._changed = self._differences(check)

    @property
    def outdated(self) -> bool:
        """True if the folder has another recipe, or none."""
        return self._changed is None or bool(self._changed)

    def check(self) -> None:
        """Raise `CheckpointError` if the folder got another recipe since the run was opened; call it under the lock."""
        text = self._read()
        if text == self._text:
            return
        changed = self._differences()
        if changed:
            raise CheckpointError(
                f"{self._folder.recipe} was changed by another command after this one had read it. It has\n"
                f"{_lines(changed)}\nRerun the command, or in Python open the run again"
            )
        self._text, self._changed = text, changed

    def adopt(self) -> None:
        """Write the recipe into the folder, and remove the plan and scores that no longer belong to it; under the lock.

        Labels are kept: a store records itself which dataset and expert they are of. A folder without a recipe was not
        that of a run, so all of its files are kept.
        """
        if self._changed is not None:
            self._remove(self._changed)
        files.write(self._folder.recipe, self._recipe.to_yaml().encode())
        self._text, self._changed = self._read(), {}

    def _remove(self, changed: Mapping[str, str]) -> None:
        path, trained = self._folder.path, self._folder.trained
        if not trained:
            for name in ("plan.arrow", "plan.parquet"):
                (path / name).unlink(missing_ok=True)
        measuring = any(name.startswith("evaluation.") and name not in APART for name in changed)
        if measuring or any(not name.startswith(FREE) for name in changed):
            self._folder.results.unlink(missing_ok=True)
        if not trained or measuring:
            for row in (path / "scores").glob("*"):
                if any(row.rglob(DONE)):  # others were not written by a run
                    shutil.rmtree(row, ignore_errors=True)

    def _read(self) -> bytes | None:
        return self._folder.recipe.read_bytes() if self._folder.recipe.exists() else None

    def _differences(self, check: Callable[[Sequence[str]], None] = lambda fields: None) -> Mapping[str, str] | None:
        """Return field -> difference between the recipe of the folder and that of the run; None if it has none."""
        folder = self._folder
        if not folder.recipe.exists():
            return None
        changed = recipes.load(folder.recipe, trust=True).differences(self._recipe)
        binding = [name for name in changed if binds(name, self._recipe)] if folder.trained else []
        if binding:
            check(binding)
            ablations = folder.path / "ablations"
            also = f" and {ablations}" if ablations.exists() else ""
            raise CheckpointError(
                f"{folder.path} holds arms that were trained with another recipe. It has\n"
                f"{_lines({name: changed[name] for name in binding})}\nGive another --out, or delete "
                f"{folder.path / 'arms'}{also} to train all arms again with this recipe; labels are kept"
            )
        return changed


def _lines(changed: Mapping[str, str]) -> str:
    return "\n".join(f"  {name}: {text}" for name, text in changed.items())


def binds(field: str, recipe: Recipe) -> bool:
    """Return True if trained arms depend on a field of the recipe."""
    chosen = len(recipe.training.learning_rates) > 1 and field.startswith(CHOOSING)
    return chosen or not field.startswith(FREE)
