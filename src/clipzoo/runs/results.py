"""The results of a run: the numbers of ``results.json`` with what they cost and how they were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from clipzoo.benchmarks import Truth
from clipzoo.errors import CheckpointError, shell_word
from clipzoo.evaluation import RowScores, TableScores, compare, open_vocabulary
from clipzoo.evaluation.arms import CEILING
from clipzoo.evaluation.measure import OPEN_VOCABULARY, Scored
from clipzoo.evaluation.results import GuardRecord, NamedArm, Results, TrainingRecord, Unlabeled
from clipzoo.evaluation.tradeoff import Reported
from clipzoo.pages import PictureRow
from clipzoo.pages.charts import Curves, Point
from clipzoo.pages.showcase import prompted, showcase
from clipzoo.runs._run import Run
from clipzoo.runs.before.preflight import TRAINED
from clipzoo.runs.inputs import reported_splits, versioned_preset
from clipzoo.runs.interpolation import BEST
from clipzoo.runs.trainings import WEIGHTS, digest, seeds_of
from clipzoo.store.manifest import software
from clipzoo.training import early_end, hardware, read_log, supervision
from clipzoo.training.guard import RECORD
from clipzoo.training.health import Supervision, describe_supervision


def compared(run: Run) -> Results:
    """Return the contents of ``results.json``; what is not measured yet is measured."""
    recipe = run.recipe
    scores = {arm: {seed: run.scores(arm, seed) for seed in seeds_of(recipe, arm)} for arm in measured_arms(run)}
    measured: dict[str, tuple[TableScores, TableScores]] = {}
    for split, rows in run.baselines(reported_splits(recipe)).items():
        arms: dict[str, dict[int, RowScores]] = {
            arm: {seed: splits[split] for seed, splits in seeds.items()} for arm, seeds in scores.items()
        }
        constant = run.suite.constant(split)
        measured[split] = arms, {row: {0: groups} for row, groups in (rows | constant).items()}
    supervised = supervision_of(run)
    results = compare(
        *measured["test"],
        recipe=recipe.name,
        subsets={split: pair for split, pair in measured.items() if split != "test"},
        cost=cost(run),
        protocol=protocol(run) | {"supervision": describe_supervision(supervised.get("clipzoo", {}))},
        versions=software(),
    )
    results["students"] = students_of(run)
    results["supervision"] = supervised
    results["trainings"] = trainings_of(run)
    if failures := expert_failures({split: rows.get(CEILING, {}) for split, (_, rows) in measured.items()}):
        results["expert_failures"] = failures
    if named := named_arms_of(run):
        results["named_arms"] = named
    if guarded := guard_of(run):
        results["guard"] = guarded
    if interpolated := interpolation_of(run):
        results["interpolation"] = interpolated
    return results


def expert_failures(scores: Mapping[str, Mapping[int, RowScores]]) -> dict[str, dict[str, Unlabeled]]:
    """Return split -> task -> the images that the expert cannot label, where there are any.

    ``scores`` are split -> seed -> scores of the row "expert".
    """
    failures: dict[str, dict[str, Unlabeled]] = {}
    for split, seeds in scores.items():
        for task, scored in [pair for groups in seeds.values() for pair in groups.items() if pair[1].failures]:
            key, reason = next(iter(scored.failures.items()))
            one = Unlabeled(images=len(scored.failures), of=len(scored.keys), first=f"{key}: {reason}")
            failures.setdefault(split, {})[task] = one
    return failures


def trained_arms(run: Run) -> list[str]:
    """Return the arms of the recipe that are trained."""
    return [arm for arm in run.recipe.arms if arm != "clip"]


def students_of(run: Run) -> dict[str, dict[str, str]]:
    """Return arm -> seed -> SHA-256 of its student's weights, "" where there is none; of interpolated arms, too."""
    arms: dict[str, dict[str, str]] = {}
    for arm in measured_arms(run):
        for seed in seeds_of(run.recipe, arm) if arm != "clip" else ():
            folder = run.folder_of(arm.removesuffix(BEST), seed) / ("best" if arm.endswith(BEST) else "student")
            arms.setdefault(arm, {})[str(seed)] = digest(folder) if (folder / WEIGHTS).is_file() else ""
    return arms


def check_current(run: Run, results: Results) -> None:
    """Raise `CheckpointError` if results are of other students than those in the run's folder.

    Results of earlier versions of clipzoo, which do not record their students, count as current, and so do those of
    students whose weights are not in the folder.
    """
    students = students_of(run)
    changed = [
        f"{arm}, seed {seed}"
        for arm, seeds in results.get("students", {}).items()
        for seed, of in seeds.items()
        if students.get(arm, {}).get(seed) not in ("", None, of)
    ]
    if changed:
        raise CheckpointError(
            f"{run.folder.results} has the numbers of other students: those of {'; '.join(changed)} were trained or "
            f"chosen again since. Run `clipzoo eval {shell_word(run.out)}`"
        )


def named_arms_of(run: Run) -> dict[str, NamedArm]:
    """Return the columns and the folder of every arm with a subset of the columns."""
    arms: dict[str, NamedArm] = {}
    for arm in run.recipe.named_arms:
        one = run.named(arm)
        assert one is not None
        arms[arm] = NamedArm(columns=list(one.specs), folder=one.out.relative_to(run.out).as_posix())
    return arms


def measured_arms(run: Run) -> list[str]:
    """Return the arms of the recipe, each followed by its interpolated one, if it has one."""
    interpolated = run.interpolations.arms if run.recipe.interpolation else ()
    return [one for arm in run.recipe.arms for one in (arm, f"{arm}{BEST}") if one == arm or arm in interpolated]


def interpolation_of(run: Run) -> dict[str, dict[str, Reported]]:
    """Return arm -> seed -> the sweep on validation and, in ``test``, the chosen student on test."""
    if run.recipe.interpolation is None:
        return {}
    arms: dict[str, dict[str, Reported]] = {}
    for arm in run.interpolations.arms:
        for seed in seeds_of(run.recipe, arm):
            found, tested = run.interpolations.sweep(arm, seed), run.interpolations.tested(arm, seed)
            reported = Reported(**found.to_json(), test=tested.to_json(found.best.alpha) if tested else None)
            arms.setdefault(arm, {})[str(seed)] = reported
    return arms


def task_order(results: Results) -> list[str]:
    """Return the tasks in the order of the recipe's columns, which is that of ``cost``."""
    return list(dict.fromkeys(name.partition("/")[0] for name in results["cost"]))


def cost(run: Run) -> dict[str, dict[str, float | None]]:
    """Return column -> cost of the labels in use; seconds spent on shards that were dropped are listed apart."""
    stored = {column.name: column for column in run.inputs.store.columns()}
    costs: dict[str, dict[str, float | None]] = {}
    for name, (column, _) in run.specs.items():
        if column.online or name not in stored:
            continue
        manifest, seconds = stored[name].manifest, stored[name].seconds_in_use()
        images = max(manifest.counts.labels + manifest.counts.failures, 1)
        costs[name] = {
            "seconds_per_image": seconds / images,
            "images_per_second": images / seconds if seconds else None,
            "dropped_seconds": round(max(manifest.seconds - seconds, 0.0), 1),
            "bytes_per_image": manifest.counts.bytes / images,
            "images": images,
            "failures": manifest.counts.failures,
        }
    return costs


def supervision_of(run: Run) -> dict[str, dict[str, Supervision]]:
    """Return arm -> seed -> its ``supervision.json``; earlier versions of clipzoo wrote none."""
    arms: dict[str, dict[str, Supervision]] = {}
    for arm in trained_arms(run):
        seeds = {str(seed): supervision(run.folder_of(arm, seed)) for seed in seeds_of(run.recipe, arm)}
        arms[arm] = {seed: record for seed, record in seeds.items() if record}
    return {arm: seeds for arm, seeds in arms.items() if seeds}


def trainings_of(run: Run) -> dict[str, dict[str, TrainingRecord]]:
    """Return arm -> seed -> samples, steps, time and hardware of each training."""
    arms: dict[str, dict[str, TrainingRecord]] = {}
    for arm in trained_arms(run):
        for seed in seeds_of(run.recipe, arm):
            folder, batch = run.folder_of(arm, seed), run.recipe.training.batch_size
            steps, _ = early_end(folder) or (run.steps(), None)
            speeds = [line["images_per_second"] for line in read_log(folder) if line.get("images_per_second")]
            seconds = steps * batch * sum(1 / speed for speed in speeds) / len(speeds) if speeds else None
            counted = supervision(folder)
            samples = counted["samples"] if counted else len(run.plan)
            arms.setdefault(arm, {})[str(seed)] = TrainingRecord(
                samples=samples, steps=steps, batch_size=batch, seconds=seconds, hardware=hardware(folder)
            )
    return arms


def guard_of(run: Run) -> dict[str, dict[str, GuardRecord]]:
    """Return arm -> seed -> the guard's measurements and events; empty without ``training.guard``."""
    arms: dict[str, dict[str, GuardRecord]] = {}
    for arm in trained_arms(run):
        for seed in seeds_of(run.recipe, arm):
            path = run.folder_of(arm, seed) / RECORD
            if path.exists():
                arms.setdefault(arm, {})[str(seed)] = json.loads(path.read_text(encoding="utf-8"))
    return arms


def protocol(run: Run) -> dict[str, object]:
    """Return how the numbers were measured."""
    evaluation, training = run.recipe.evaluation, run.recipe.training
    H, W = run.suite.size
    stride, test = evaluation.label_stride, run.suite.dense.get("test")
    truth = test.truth if test else {}
    averaged = [(task, one.task.metric(one.convention).over) for task, one in truth.items()]
    recognized = {
        "whole": "the same",
        "center": "a center crop of the student's aspect ratio",
        "padded": "the whole image, padded",
    }[run.start().crop]
    return {
        "preset": versioned_preset(run.recipe),
        "crop": f"dense tasks: the whole image, squashed to the student's size; zero-shot and retrieval: {recognized}",
        "resolution": f"{H}×{W} images, {H // stride}×{W // stride} labels",
        "mask": "pixels with a known true label",
        "alignment": _alignment(truth),
        "averaging": "; ".join(f"{task}: over {over}" for task, over in averaged if over),
        "probe": f"ridge regression from the tokens of layers {list(evaluation.layers)} of the frozen tower to the "
        "pixels of each token; strength chosen on validation",
        "zero_shot": "normalized mean of normalized embeddings over the dataset's own templates",
        "retrieval": "mean of both directions; equal captions count as one candidate",
        "learning_rates": {arm: run.rate(arm) for arm in trained_arms(run)},
        "learning_rate_grid": list(training.learning_rates),
        "contrastive_weight": training.contrastive_weight,
        **_more_labels(run),
        **_interpolation(run),
        **open_vocabulary.protocol(evaluation.open_vocabulary),
    }


def _more_labels(run: Run) -> dict[str, str]:
    """Return of how many pseudo-labels the row "more labels" is made; empty without the row."""
    counts = run.measured.pseudo_labels()
    if counts is None:
        return {}
    listed = ", ".join(f"{count:,} of {task}" for task, count in counts.items())
    return {"more_labels": f"true labels of the probe split and pseudo-labels of random captioned pictures: {listed}"}


def _interpolation(run: Run) -> dict[str, str]:
    """Return how interpolated students are chosen; empty without ``interpolation``."""
    settings = run.recipe.interpolation
    if settings is None:
        return {}
    rule = (
        f"on validation, of α = {', '.join(f'{alpha:g}' for alpha in settings.swept)}: the highest mean of the dense "
        "headlines among the start and the students whose loss of zero-shot recognition has a 95 % interval that ends "
        f"at or below {settings.max_loss:g}"
    )
    return {"interpolation": rule}


def _alignment(truth: Mapping[str, Truth]) -> str:
    kind = truth["depth"].convention.kind if "depth" in truth else "metric"
    return "none" if kind == "metric" else f"scale and shift of each picture's depth; the true labels are {kind}"


def curves(run: Run) -> Curves:
    """Return arm -> seed -> loss terms and guard of its log, one value per entry."""
    return {
        arm: {seed: curve(run.folder_of(arm, seed)) for seed in seeds_of(run.recipe, arm)} for arm in trained_arms(run)
    }


def curve(folder: Path) -> list[Point]:
    """Return loss terms and guard of the log of a training, one value per entry."""
    return [
        {"step": line["step"], "name": name, "value": value}
        for line in read_log(folder)
        for name, value in line.items()
        if name.startswith(("loss", "validation/", "guard/")) and isinstance(value, int | float)
    ]


def picture_rows(run: Run) -> list[PictureRow]:
    """Return the pictures of the page: probes of both trained arms, if there are both, and heat maps of prompts."""
    return [*_probed_rows(run), *_prompted_rows(run)]


def _prompted_rows(run: Run) -> list[PictureRow]:
    """Return the heat maps of every arm; none without ``evaluation.open_vocabulary``."""
    evaluation, test, seed = run.recipe.evaluation, run.suite.dense.get("test"), run.recipe.seeds[0]
    if evaluation.open_vocabulary is None or not evaluation.pictures or test is None:
        return []
    seeds = {arm: 0 if arm == "clip" else seed for arm in run.recipe.arms}
    scores = {arm: run.scores(arm, one)["test"][OPEN_VOCABULARY] for arm, one in seeds.items()}
    students = {arm: partial(run.train, arm, one) for arm, one in seeds.items()}
    return prompted(test, students, scores, evaluation.open_vocabulary, evaluation.pictures)


def _probed_rows(run: Run) -> list[PictureRow]:
    recipe, seed = run.recipe, run.recipe.seeds[0]
    test = run.suite.dense.get("test") if recipe.evaluation.pictures and set(TRAINED) <= set(recipe.arms) else None
    if test is None:
        return []
    probes = {arm: run.measured.probes(arm, seed) for arm in TRAINED}
    scores: dict[str, Mapping[str, Scored]] = {arm: run.scores(arm, seed)["test"] for arm in TRAINED}
    scores["expert"] = run.baselines(["test"])["test"].get("expert", {})
    return showcase(test, probes, scores, run.measured.loaded_experts(), recipe.evaluation.pictures)
