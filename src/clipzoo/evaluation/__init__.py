"""Measuring students: dense probes, zero-shot, retrieval, baselines, and arms side by side."""

from clipzoo.evaluation.arms import Arms, Run, compare, restrict
from clipzoo.evaluation.base import Student, feature_batches, features
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probe import Probe, Probes, dense

__all__ = [
    "Arms", "Probe", "Probes", "Run", "Scored", "Student", "compare", "dense", "feature_batches", "features",
    "restrict",
]  # fmt: skip
