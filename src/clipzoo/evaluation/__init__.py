"""Measuring students: dense probes, zero-shot, retrieval, baselines, and arms side by side."""

from clipzoo.evaluation.arms import Arms, Run, compare, restrict
from clipzoo.evaluation.base import Student, features
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probe import Probe, Probes, dense
from clipzoo.evaluation.sets import DenseSet, RetrievalSet, Truth, ZeroShotSet

__all__ = [
    "Arms", "DenseSet", "Probe", "Probes", "RetrievalSet", "Run", "Scored", "Student", "Truth", "ZeroShotSet",
    "compare", "dense", "features", "restrict",
]  # fmt: skip
