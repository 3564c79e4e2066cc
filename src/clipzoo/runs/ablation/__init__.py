"""Ablation: the same training with subsets of the columns, which share labels, data and the arms without columns."""

from clipzoo.runs.ablation.ablate import Ablation, ablate, check, planned
from clipzoo.runs.variants import Variant

__all__ = ["Ablation", "Variant", "ablate", "check", "planned"]
