"""Training data: images and labels joined into a plan, read in batches by a PyTorch DataLoader."""

from clipzoo.data._pixels import Viewing
from clipzoo.data.batches import Batch, LabelColumn, Skipped, TrainingSet
from clipzoo.data.captions import check_captions
from clipzoo.data.filters import Where
from clipzoo.data.kept_plan import kept_plan
from clipzoo.data.loading import loader
from clipzoo.data.mixture import check_mixture
from clipzoo.data.online import OnlineColumn, check_online
from clipzoo.data.plan import Plan, entry_of

__all__ = [
    "Batch",
    "LabelColumn",
    "OnlineColumn",
    "Plan",
    "Skipped",
    "TrainingSet",
    "Viewing",
    "Where",
    "check_captions",
    "check_mixture",
    "check_online",
    "entry_of",
    "kept_plan",
    "loader",
]
