"""Evaluation of students: dense probes, zero-shot, retrieval, baselines, and the comparison of arms."""

from clipzoo.evaluation.arms import RowScores, TableScores, compare, restrict
from clipzoo.evaluation.base import Encoder, feature_batches, features
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probes.fitting import dense
from clipzoo.evaluation.probes.probe import Probe, Probes

__all__ = [
    "Encoder", "Probe", "Probes", "RowScores", "Scored", "TableScores", "compare", "dense", "feature_batches",
    "features", "restrict",
]  # fmt: skip
