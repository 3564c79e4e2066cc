"""The failure budget of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from clipzoo.errors import ClipzooError, DatasetError, ExpertError
from clipzoo.types import Failure

EARLIEST = 100
"""Least number of samples on which the budget is judged, unless there are no more."""


def check_share(max_failures: object) -> None:
    """Raise `ExpertError` unless it is a share from 0 to 1."""
    if not (isinstance(max_failures, int | float) and 0 <= max_failures <= 1):
        raise ExpertError(f"max_failures={max_failures!r} is no share of the samples. Give 0 to 1: 5 % is 0.05")


@dataclass
class Budget:
    """The share of a column's samples that may fail, over its committed shards and this run."""

    column: str
    allowed: float
    samples: int = 0
    failed: int = 0
    by_sample: int = 0  # failures in reading or decoding the sample
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # kind of failure -> the sentence of the first

    def count(self, failure: Failure) -> None:
        """Count a failure by its kind. A sample that was not downloaded counts as no sample."""
        if not failure.counts:
            self.samples -= 1
            return
        self.failed += 1
        self.reasons[failure.kind] += 1
        self.examples.setdefault(failure.kind, failure.detail)

    def note(self, failure: Failure | None = None, by_sample: bool = False) -> None:
        """Count a sample, with its reason if it failed. Judge the budget when enough samples have been counted."""
        self.samples += 1
        if failure is not None:
            self.count(failure)
            self.by_sample += by_sample and failure.counts
            if self.samples >= EARLIEST:
                self.judge()

    def since(self, before: Budget) -> Budget:
        """Return the counts since ``before``, an earlier copy of this budget."""
        return replace(
            self,
            samples=self.samples - before.samples,
            failed=self.failed - before.failed,
            by_sample=self.by_sample - before.by_sample,
            reasons=self.reasons - before.reasons,
        )

    def add(self, other: Budget) -> None:
        """Add the counts of another budget of the same column."""
        self.samples += other.samples
        self.failed += other.failed
        self.by_sample += other.by_sample
        self.reasons += other.reasons
        self.examples = {**other.examples, **self.examples}

    def judge(self) -> None:
        """Raise `DatasetError` or `ExpertError`, by the cause of most failures, if too many samples failed."""
        if self.failed <= self.allowed * self.samples:
            return
        cause: type[ClipzooError] = DatasetError if 2 * self.by_sample > self.failed else ExpertError
        raise cause(
            f"labeling stopped: {self.failed} of {self.samples} samples of {self.column} failed "
            f"({self.failed / self.samples:.1%}), more than max_failures={self.allowed:g} allows:\n"
            + "\n".join(f"  {count} × {self.examples[kind]}" for kind, count in self.reasons.most_common(10))
            + "\nCommitted shards are kept. Fix this and rerun the command, with --retry-failed if an expert changed, "
            "or allow more failures: --max-failures, in a recipe labeling.max_failures."
        )
