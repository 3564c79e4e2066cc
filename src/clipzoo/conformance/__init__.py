"""Conformance tests of experts: determinism, batches, mirroring, frames, signs, axes, label spaces."""

from clipzoo.conformance.engine import check, quick_check
from clipzoo.conformance.pictures import load_pictures
from clipzoo.conformance.report import ConformanceReport, Verdict

__all__ = ["ConformanceReport", "Verdict", "check", "load_pictures", "quick_check"]
