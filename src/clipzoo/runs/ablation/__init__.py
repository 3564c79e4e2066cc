"""Ablation: the same training with subsets of the columns, which share labels, data and the arms without columns."""

from clipzoo.runs.ablation.ablate import Ablation, ablate, check, planned
from clipzoo.runs.ablation.advise import Budget, advise
from clipzoo.runs.variants import Variant

__all__ = ["Ablation", "Budget", "Variant", "ablate", "advise", "check", "planned"]
