"""The measurements of a run: the benchmarks of its recipe, read for its student."""

from __future__ import annotations

from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.models import Student
from clipzoo.recipe import Recipe
from clipzoo.runs.inputs import Inputs
from clipzoo.runs.preflight import REPORTED, SPLITS


def open_suite(inputs: Inputs, student: Student) -> Suite:
    """Open the benchmarks of a recipe.

    Args:
        inputs: of the run; its progress receives how many samples cannot be used.
        student: whose image size and crop the pictures get.
    """
    evaluation, progress = inputs.recipe.evaluation, inputs.progress
    locations = {split: getattr(evaluation, split) for split in SPLITS}
    benchmarks = {split: inputs.benchmark(location) for split, location in locations.items() if location}
    suite = Suite.of(benchmarks, student.image_size, evaluation.label_stride, evaluation.layers, student.crop)
    for split, reasons in suite.left_out.items():
        if reasons:
            most = max(reasons, key=lambda reason: reasons[reason])
            progress.stage(f"{split}: {sum(reasons.values())} samples cannot be used. Most common reason: {most}")
    if "test" in suite.dense and not suite.probed:
        progress.stage("the true labels of test are not used: probes need evaluation.probe and evaluation.validation")
    return suite


def reported_splits(recipe: Recipe) -> list[str]:
    """Return the splits of a recipe that are reported: ``test`` and ``heldout``, if it has them."""
    return [split for split in REPORTED if getattr(recipe.evaluation, split)]


def versioned_preset(recipe: Recipe) -> str:
    """Return the preset of the measurements with its version; scores of another one do not count."""
    name = recipe.evaluation.preset
    return f"{name}, version {PRESETS[name]}"
