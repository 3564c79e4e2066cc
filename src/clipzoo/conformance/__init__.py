"""Whether an expert's labels mean what they say: determinism, batches, mirrors, frames, signs, axes, label spaces."""

from clipzoo.conformance.card import Card, Verdict
from clipzoo.conformance.engine import check, short
from clipzoo.conformance.pictures import load_pictures

__all__ = ["Card", "Verdict", "check", "load_pictures", "short"]
