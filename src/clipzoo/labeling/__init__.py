"""Experts over a dataset, into a store: plan, work on shards, commit."""

from clipzoo.labeling._watch import Interrupted
from clipzoo.labeling.engine import ColumnReport, label, report
from clipzoo.labeling.gallery import Gallery, inspect

__all__ = ["ColumnReport", "Gallery", "Interrupted", "inspect", "label", "report"]
