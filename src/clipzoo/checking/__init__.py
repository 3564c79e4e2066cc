"""The check of a dataset before it is used: its contents and its problems."""

from clipzoo.checking.engine import scan
from clipzoo.checking.findings import Findings

__all__ = ["Findings", "scan"]
