"""Labeling of a dataset by experts into a store: plan, label shards, commit."""

from clipzoo.labeling._tuning import Precision, Tuning
from clipzoo.labeling.engine import ColumnReport, label, report
from clipzoo.labeling.estimating import Estimate, estimate
from clipzoo.labeling.exports import Exported, export_labels
from clipzoo.labeling.importing import Imported, import_labels
from clipzoo.stopping import Interrupted

__all__ = [
    "ColumnReport", "Estimate", "Exported", "Imported", "Interrupted", "Precision", "Tuning", "estimate",
    "export_labels", "import_labels", "label", "report",
]  # fmt: skip
