"""Experts over a dataset, into a store: plan, work on shards, commit."""

from clipzoo.labeling._tuning import Precision, Tuning
from clipzoo.labeling.engine import ColumnReport, label, report
from clipzoo.labeling.estimating import Estimate, estimate
from clipzoo.labeling.importing import Imported, import_labels
from clipzoo.stopping import Interrupted

__all__ = [
    "ColumnReport", "Estimate", "Imported", "Interrupted", "Precision", "Tuning", "estimate", "import_labels", "label",
    "report",
]  # fmt: skip
