"""Images and labels joined into a plan, and the plan read as batches of a plain PyTorch DataLoader."""

from clipzoo.data.batches import Batch, LabelColumn, TrainingSet, Viewing, loader
from clipzoo.data.kept_plan import kept_plan
from clipzoo.data.plan import Plan, entry_of

__all__ = ["Batch", "LabelColumn", "Plan", "TrainingSet", "Viewing", "entry_of", "kept_plan", "loader"]
