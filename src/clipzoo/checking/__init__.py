"""A look at a dataset before anything is done with it: what it holds, and what is odd about it."""

from clipzoo.checking.engine import scan
from clipzoo.checking.findings import Findings

__all__ = ["Findings", "scan"]
