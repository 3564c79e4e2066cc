"""Whether an expert's labels mean what they say: determinism, batches, mirrors, frames, signs, axes, label spaces."""

from clipzoo.conformance.card import Card, Verdict
from clipzoo.conformance.engine import check, short

__all__ = ["Card", "Verdict", "check", "short"]
