"""Dataset check: contents and problems of a dataset before it is labeled or trained on."""

from clipzoo.checking.engine import scan
from clipzoo.checking.findings import Findings

__all__ = ["Findings", "scan"]
