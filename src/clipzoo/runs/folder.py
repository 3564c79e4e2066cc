"""A recipe and its folder: data, labels, plan, students and scores, each made at first use and found again later.

A run's folder:

    recipe.yaml            the complete recipe
    .lock                  held by the process that works here
    data/                  what was unpacked or rendered
    labels/                the label store, unless the recipe names another
    plan.parquet           images and labels, joined; plan.json says what of
    arms/<arm>/<seed>/     log.jsonl, tensorboard/, checkpoint.pt while it runs, then student/
    arms/<arm>/rates.json  the grid of learning rates and what validation says of each
    scores/                one file of additive shares for each arm, seed, split and group of measures; ``done`` says
                           what they were measured on
    results.json           the numbers
    page.html              the page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from clipzoo import demo, experts, files
from clipzoo import recipe as recipes
from clipzoo.benchmarks import Benchmark, Split, column_labels, open_benchmark, split_of
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, entry_of, kept_plan
from clipzoo.errors import CheckpointError, ClipzooError, DivergedError, RecipeError
from clipzoo.evaluation import zero_shot
from clipzoo.evaluation.criterion import criterion
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probe import Probes
from clipzoo.evaluation.scores import kept_scores
from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.experts import Expert
from clipzoo.files import AnyPath, Place, alone
from clipzoo.labeling.inputs import stages
from clipzoo.models import HeadSpec, Student
from clipzoo.models._open_clip import here
from clipzoo.progress import Progress, Silent
from clipzoo.readers import Entry, Reader, open_dataset
from clipzoo.recipe import ColumnRecipe, Recipe
from clipzoo.runs.preflight import REPORTED, SPLITS, TRAINED, check_splits
from clipzoo.store import Column, Store
from clipzoo.training import Job, ended, finished
from clipzoo.training import train as train_job
from clipzoo.types import decode_image

RATES = "rates.json"
PSEUDO = 2000
"""Pseudo-labeled pictures that the row "more labels" adds to the probe's true ones."""


FREE = (
    "description", "labeling.", "evaluation.", "arms.", "seeds.", "training.workers", "training.log_every",
    "training.checkpoint_", "training.evaluate_every", "training.max_failures", "student.trust_remote_code",
)  # fmt: skip
"""Fields that may change in a run's folder when arms are trained, for no arm depends on them."""
CHOOSING = (
    "evaluation.probe", "evaluation.validation", "evaluation.layers", "evaluation.label_stride", "evaluation.layout",
    "evaluation.preset", "seeds.0",
)  # fmt: skip
"""But on these, where they chose its rate."""


class Run:
    """A recipe and its folder; every property is made at first use and found again later.

    Args:
        recipe: complete.
        out: the folder, on a disk.
        progress: told what is being done.
        device: as torch names it.
        scratch: only look: nothing is written into ``out``, no weights are fetched for the student, and packaged data
            is unpacked here.

    Raises:
        ClipzooError: a mistake of a new recipe, or a folder that holds a run of another one.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: AnyPath,
        progress: Progress | None = None,
        device: str = "cpu",
        scratch: Path | None = None,
    ) -> None:
        self.recipe, self.out = recipe, files.local(out, "a run's folder")
        self.progress, self.device, self.scratch = progress or Silent(), device, scratch
        self._held = False
        self._settle()

    def _settle(self) -> None:
        """Find the run that the folder holds, or begin one."""
        path = self.out / "recipe.yaml"
        if self.out.exists() and not self.out.is_dir():
            raise CheckpointError(f"{self.out} is a file; give --out a folder")
        files.check_inside(self.out, ".", CheckpointError)
        changed = recipes.load(path, trust=True).differences(self.recipe) if path.exists() else {}
        trained = (self.out / "arms").exists()
        if trained and (bound := [f"{name}: {text}" for name, text in changed.items() if self._binds(name)]):
            raise CheckpointError(
                f"{self.out} holds a run of another recipe, by which arms were trained; it has\n  "
                + "\n  ".join(bound)
                + "\nGive another --out, or delete that folder to begin anew"
            )
        if changed or not path.exists():  # labels are kept: a store knows itself whose they are
            self._preflight()
            if self.scratch is None:
                self.out.mkdir(parents=True, exist_ok=True)
                if not trained:
                    (self.out / "plan.parquet").unlink(missing_ok=True)
                if not trained or any(name.startswith("evaluation.") for name in changed):
                    shutil.rmtree(self.out / "scores", ignore_errors=True)
                files.write(path, self.recipe.to_yaml().encode())

    def _binds(self, field: str) -> bool:
        """Whether arms that are trained depend on a field of the recipe."""
        chosen = len(self.recipe.training.learning_rates) > 1 and field.startswith(CHOOSING)
        return chosen or not field.startswith(FREE)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that works in this folder; may be nested.

        Raises:
            CheckpointError: another process does.
        """
        if self._held:
            yield
            return
        with alone(self.out, CheckpointError, "two runs in one folder would overwrite each other"):
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def _preflight(self) -> None:
        """Find mistakes of a new recipe now, not when hours of labeling are over."""
        if not demo.check(self.recipe.data):
            open_dataset(self.dataset)
        check_splits(self.recipe)
        wanted = self.recipe.student  # of which nothing is fetched to look
        looking = self.scratch is not None and not here(demo.locate_model(wanted.model), wanted.pretrained)
        start = self.start("clipzoo" if "clipzoo" in self.recipe.arms else "clip", random=looking)
        if self.recipe.evaluation.probe:
            start.check_layers(self.recipe.evaluation.layers, "evaluation.layers")

    # Data ----------------------------------------------------------------------------------------------

    @property
    def _packaged(self) -> Path:
        """Where packaged and rendered data is put."""
        return self.scratch or self.out / "data"

    def folder(self, location: str) -> Place:
        """The folder of a location, unpacked or rendered where it is of the embedded default."""
        return files.place(demo.locate(location, self._packaged, lambda *a: self.progress.step(*a)))

    @cached_property
    def reader(self) -> Reader:
        """The captioned dataset; `DatasetError` if it cannot be opened."""
        return open_dataset(self.dataset)

    @property
    def dataset(self) -> str:
        """Where the captioned images are."""
        return demo.locate_data(self.recipe.data, self._packaged, lambda *a: self.progress.step(*a))

    def shards(self) -> list[str] | None:
        """The shards that hold the first ``max_samples`` usable samples; None is all of them."""
        if self.recipe.max_samples is None:
            return None
        chosen, left = [], self.recipe.max_samples
        for shard in self.reader.shards:
            chosen.append(shard)
            left -= sum(entry.error is None for entry in self.reader.index(shard))
            if left <= 0:
                break
        return chosen

    @property
    def store(self) -> Store:
        """The label store, of the recipe or in the folder; its columns need not be there yet."""
        return Store(self.recipe.store or self.out / "labels")

    @cached_property
    def experts(self) -> dict[str, Expert]:
        """URI -> expert of the recipe, not loaded; `ExpertError` for one that cannot be made."""
        made = {c.expert: experts.create(c.expert) for c in self.recipe.columns if c.expert}
        stages(list(made.values()), self.store)
        return made

    @cached_property
    def specs(self) -> dict[str, tuple[ColumnRecipe, HeadSpec]]:
        """Column name -> its recipe and the head that learns it; known before anything is labeled."""
        found = {}
        for wanted in self.recipe.columns:
            card = self.experts[wanted.expert].card if wanted.expert else None
            if card:
                name, task, convention = f"{card.task}/{card.slug}", card.task, card.convention
            else:
                column = self._stored(str(wanted.column))
                name, task, convention = column.name, column.task, column.convention
            if name in found:
                raise RecipeError(f"two of the columns are {name}; give each once, with one head and loss")
            found[name] = (
                wanted,
                HeadSpec(task, convention, wanted.head, wanted.head_options, wanted.loss, wanted.loss_options),
            )
        return found

    @cached_property
    def columns(self) -> dict[str, tuple[ColumnRecipe, Column]]:
        """Column name -> its recipe and its labels."""
        return {name: (wanted, self._stored(name)) for name, (wanted, _) in self.specs.items()}

    def _stored(self, name: str) -> Column:
        task, _, slug = name.partition("/")
        return self.store.column(task, slug)

    def unlabeled(self) -> list[str]:
        """Names of the columns of which an expert has shards to label."""
        wanted = set(self.shards() or self.reader.shards)
        done = {column.name for column in self.store.columns() if wanted <= column.committed()}
        return [name for name, (one, _) in self.specs.items() if one.expert and name not in done]

    def unload_experts(self) -> None:
        """Let go of the experts and their weights; they are made again when they are needed."""
        self.__dict__.pop("experts", None)

    @cached_property
    def plan(self) -> Plan:
        """Images and labels, joined once.

        Raises:
            CheckpointError: dataset or labels have changed since, and arms were trained on what they were; or its files
                are damaged.
        """
        columns = {name: column for name, (_, column) in self.columns.items()}
        plan = kept_plan(self.out, self.reader, columns, partial(self.join, columns), (self.out / "arms").exists())
        for line in plan.summary():
            self.progress.stage(line)
        return plan

    def join(self, columns: Mapping[str, Column]) -> Plan:
        """Images and labels of these columns, joined anew; nothing is written."""
        confident = {n: w.min_confidence for n, (w, _) in self.specs.items() if w.min_confidence is not None}
        return Plan.build(self.reader, columns, min_confidence=confident, max_samples=self.recipe.max_samples)

    def benchmark(self, location: str) -> Benchmark:
        """What is measured on at a location of the recipe's ``evaluation``; the embedded default has its own layout."""
        folder = self.folder(location)
        return open_benchmark(folder) if demo.check(location) else open_benchmark(folder, self.recipe.evaluation.layout)

    @property
    def preset(self) -> str:
        """How arms are measured, with its version: scores of another one are no scores of this run."""
        name = self.recipe.evaluation.preset
        return f"{name}, version {PRESETS[name]}"

    @cached_property
    def suite(self) -> Suite:
        """Everything that students are measured on."""
        wanted = self.recipe.evaluation
        locations = {s: getattr(wanted, s) for s in SPLITS}
        found = {split: self.benchmark(location) for split, location in locations.items() if location}
        start = self.start()
        suite = Suite.of(found, start.image_size, wanted.label_stride, wanted.layers, start.crop)
        for split, reasons in suite.left_out.items():
            if reasons:
                most = max(reasons, key=lambda reason: reasons[reason])
                self.progress.stage(
                    f"{split}: {sum(reasons.values())} samples cannot be used. Most common reason: {most}"
                )
        if "test" in suite.dense and not suite.probed:
            self.progress.stage("the truth of test is not used: probes need evaluation.probe and .validation")
        return suite

    # Students ------------------------------------------------------------------------------------------

    def _arm(self, arm: str) -> Path:
        return self.out / "arms" / arm

    def folder_of(self, arm: str, seed: int) -> Path:
        """Where an arm is trained from a seed."""
        return self._arm(arm) / str(seed)

    def untrained(self) -> list[tuple[str, int]]:
        """(arm, seed) of the recipe's trainings that have not ended."""
        trained = [(arm, seed) for arm in self.recipe.arms if arm in TRAINED for seed in self.recipe.seeds]
        return [(arm, seed) for arm, seed in trained if not ended(self.folder_of(arm, seed))]

    def start(self, arm: str = "clip", seed: int = 0, random: bool = False) -> Student:
        """The student that an arm starts from; ``clipzoo`` has heads, drawn from the seed."""
        wanted = self.recipe.student
        specs = {name: spec for name, (_, spec) in self.specs.items()} if arm == "clipzoo" else {}
        gpus = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(gpus):  # asked for in mid-training, too
            torch.manual_seed(seed)
            model = demo.locate_model(wanted.model)
            return Student.create(
                model, wanted.pretrained, specs, wanted.layers, random or wanted.random, wanted.trust_remote_code
            )

    def train(self, arm: str, seed: int) -> Student:
        """The trained student of an arm and seed."""
        if arm == "clip":
            return self.start().to(self.device).eval()
        folder = self.folder_of(arm, seed)
        return self.trained(arm, seed) or train_job(self._job(arm, seed, self.rate(arm), self.steps(), folder))

    def trained(self, arm: str, seed: int) -> Student | None:
        """The student of a training that has ended; `CheckpointError` if it is damaged."""
        return finished(self.folder_of(arm, seed), self.device, self.recipe.student.trust_remote_code)

    def steps(self, samples: int | None = None) -> int:
        """Updates of each arm: the recipe's, or its epochs of whole batches over ``samples`` (default the plan's)."""
        settings = self.recipe.training
        return settings.steps or settings.updates(len(self.plan) if samples is None else samples)

    def search_steps(self, samples: int | None = None) -> int:
        """Updates of a trial run of the grid of learning rates."""
        return self.recipe.training.trial_updates(self.steps(samples))

    def rate(self, arm: str) -> float:
        """The learning rate of an arm: of several in the recipe, the one that validation prefers.

        See `clipzoo.evaluation.criterion`.
        """
        rates = self.recipe.training.learning_rates
        if len(rates) == 1:
            return rates[0]
        tried, steps = self.tried(arm), self.search_steps()
        for rate in rates:
            if f"{rate:g}" in tried:
                continue
            self.progress.stage(f"{arm}: trying the learning rate {rate:g}")
            folder = self._arm(arm) / f"rate-{rate:g}"
            try:
                student = train_job(self._job(arm, self.recipe.seeds[0], rate, steps, folder))
                tried[f"{rate:g}"] = criterion(self.suite.measure(student, ["validation"])["validation"])
            except DivergedError:
                tried[f"{rate:g}"] = {"criterion": -1.0}  # below any that is measured
            files.write(self._arm(arm) / RATES, json.dumps(tried, indent=2).encode())
            shutil.rmtree(folder / "student", ignore_errors=True)
        return max(rates, key=lambda rate: tried[f"{rate:g}"]["criterion"])

    def tried(self, arm: str) -> dict[str, dict[str, float]]:
        """Learning rate -> what validation said of its trial, of those that an arm has tried."""
        path = self._arm(arm) / RATES
        found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _job(self, arm: str, seed: int, rate: float, steps: int, out: Path) -> Job:
        student, settings = self.start(arm, seed), self.recipe.training
        viewing = Viewing(student.image_size, settings.scale, flip=settings.flip, jitter=settings.jitter)
        labels = {n: LabelColumn(c, w.stride) for n, (w, c) in self.columns.items()} if arm == "clipzoo" else {}
        weights = {n: w.weight for n, (w, _) in self.columns.items()}
        dataset = TrainingSet(self.plan, self.reader, labels, viewing, seed)

        def on_step(step: int, values: Mapping[str, float]) -> None:
            note = f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} images/s"
            self.progress.step(f"{arm} seed {seed}", step + 1, steps, note)

        return Job(
            student, dataset, weights, settings, rate, steps, out, self._guard, self.device, on_step,
            lambda text: self.progress.stage(f"{arm}, seed {seed}: {text}"),
        )  # fmt: skip

    def _guard(self, student: Student) -> Iterator[tuple[str, float]]:
        """What training must not lower, on validation."""
        if "validation" in self.suite.zero_shot:
            scored = zero_shot.evaluate(student, self.suite.zero_shot["validation"])
            yield from ((f"validation/{name}", value) for name, value in scored.compute().items())

    # Measurements --------------------------------------------------------------------------------------

    @cached_property
    def probes(self) -> Callable[[str, int], Probes | None]:
        """Arm and seed -> the probes of its student, None where there is no truth; the last two that were fitted are
        kept."""
        return lru_cache(maxsize=2)(lambda arm, seed: self.suite.probes(self.train(arm, seed)))

    def scores(self, arm: str, seed: int) -> dict[str, dict[str, Scored]]:
        """Split -> group -> scores of a trained arm."""

        def measure() -> Mapping[str, Mapping[str, Scored]]:
            self.progress.stage(f"measuring {arm}, seed {seed}" if arm in TRAINED else f"measuring {arm}")
            return self.suite.measure(self.train(arm, seed), self.splits(), self.probes(arm, seed))

        return self._scored(self.out / "scores" / arm / str(seed), measure, self.splits())

    def baselines(self, splits: Sequence[str]) -> dict[str, dict[str, dict[str, Scored]]]:
        """Split -> baseline -> group -> scores."""
        folder = self.out / "scores" / "baselines"
        measured = cache(lambda: self._baselines(splits))
        return {s: self._scored(folder / s, partial(lambda s: measured()[s], s), [s]) for s in splits}

    def _baselines(self, splits: Sequence[str]) -> dict[str, dict[str, Mapping[str, Scored]]]:
        self.progress.stage("measuring the baselines")
        rows = self.suite.baselines(splits, self.start(random=True).to(self.device).eval(), self.loaded_experts())
        pseudo = self._pseudo() if any(rows.values()) and "clip-ft" in self.recipe.arms else None
        if pseudo is not None and (more := self.suite.probes(self.train("clip-ft", self.recipe.seeds[0]), pseudo)):
            for split in set(splits) & set(self.suite.dense):
                rows[split]["more_labels"] = more.score(self.suite.dense[split])
        return rows

    def loaded_experts(self) -> dict[str, Expert]:
        """Task -> the recipe's (last) expert of it, loaded, if its labels can be compared with the truth."""
        found = {}
        for uri, expert in self.experts.items():
            if self.suite.comparable(expert.card.task, expert.card.convention):
                expert.load(self.device)
                found[expert.card.task] = expert
            else:
                self.progress.stage(f"{uri} has no row: there is no truth of {expert.card.task} with its convention")
        return found

    def _pseudo(self) -> Split | None:
        """Captioned pictures with the pseudo-labels that can be compared with the truth, as a probe sees them."""
        comparable = {c.task: n for n, (_, c) in self.columns.items() if self.suite.comparable(c.task, c.convention)}
        if not comparable:
            return None
        label_size = next(iter(self.suite.dense["test"].truth.values())).size
        draw = np.random.default_rng(self.recipe.seeds[0])
        rows = sorted(draw.choice(len(self.plan), min(PSEUDO, len(self.plan)), replace=False).tolist())
        floors = {c.task: w.min_confidence or 0.0 for w, c in self.columns.values()}
        chosen = [entry for row in self.plan.rows(rows) if _decodes(self.reader, entry := entry_of(row))]
        labels = column_labels(str(self.store.root), self.reader, comparable, floors)
        return split_of(self.reader, chosen, labels, self.suite.size, label_size)

    def splits(self) -> list[str]:
        """The splits that are reported and that the recipe has: of ``test`` and ``heldout``."""
        return [s for s in REPORTED if getattr(self.recipe.evaluation, s)]

    def seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm; nothing is drawn for one that is not trained."""
        return (0,) if arm == "clip" else self.recipe.seeds

    def _scored(
        self, folder: Path, measure: Callable[[], Mapping[str, Mapping[str, Scored]]], splits: Sequence[str]
    ) -> dict[str, dict[str, Scored]]:
        """Scores kept as ``<folder>/<row>/<group>.npz``, measured where they are not of these benchmarks."""
        known = self.suite.identities
        wanted = {split: known[split] for split in ("probe", "validation", *splits) if split in known}
        return kept_scores(folder, measure, {"preset": self.preset} | wanted, self.progress.stage)


def _decodes(reader: Reader, entry: Entry) -> bool:
    """Whether the picture of an entry can be used."""
    try:
        decode_image(reader.read(entry).image)
    except ClipzooError:
        return False
    return True


def told(trainings: Sequence[tuple[str, int]]) -> str:
    """(arm, seed) of several trainings in words."""
    arms = dict.fromkeys(arm for arm, _ in trainings)
    return "; ".join(f"{arm}: seed {', '.join(str(s) for a, s in trainings if a == arm)}" for arm in arms)
