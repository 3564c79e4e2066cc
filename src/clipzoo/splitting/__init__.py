"""Parts of a dataset: training shards and benchmark folders, with near-duplicates and series in one part."""

from clipzoo.splitting.engine import split
from clipzoo.splitting.parts import Options
from clipzoo.splitting.report import PartReport, SplitReport

__all__ = ["Options", "PartReport", "SplitReport", "split"]
