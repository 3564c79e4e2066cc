"""The budget of errors of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from clipzoo.errors import ClipzooError, DatasetError, ExpertError
from clipzoo.types import Failure

EARLIEST = 100
"""The budget is not judged on fewer samples than these, unless there are no more."""


@dataclass
class Budget:
    """The share of samples of a column that may fail, counted over the column's committed shards and this run."""

    column: str
    allowed: float
    seen: int = 0
    failed: int = 0
    by_sample: int = 0  # failures that no expert had a part in
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # kind of reason -> the first in full

    def count(self, failure: Failure) -> None:
        """Count a failure by its kind. A sample that was not downloaded counts as no sample."""
        if not failure.counts:
            self.seen -= 1
            return
        self.failed += 1
        self.reasons[failure.kind] += 1
        self.examples.setdefault(failure.kind, failure.detail)

    def note(self, failure: Failure | None = None, by_sample: bool = False) -> None:
        """Count a sample, with its reason if it failed. Judge the budget when enough samples have been counted."""
        self.seen += 1
        if failure is not None:
            self.count(failure)
            self.by_sample += by_sample and failure.counts
            if self.seen >= EARLIEST:
                self.judge()

    def since(self, before: Budget) -> Budget:
        """What was counted since ``before``, a copy of this budget, was made."""
        return replace(
            self,
            seen=self.seen - before.seen,
            failed=self.failed - before.failed,
            by_sample=self.by_sample - before.by_sample,
            reasons=self.reasons - before.reasons,
        )

    def add(self, other: Budget) -> None:
        """Count what another one of the same column has counted."""
        self.seen += other.seen
        self.failed += other.failed
        self.by_sample += other.by_sample
        self.reasons += other.reasons
        self.examples = {**other.examples, **self.examples}

    def judge(self) -> None:
        """Raise `DatasetError` or `ExpertError`, whoever caused most failures, if too many samples failed."""
        if self.failed <= self.allowed * self.seen:
            return
        cause: type[ClipzooError] = DatasetError if 2 * self.by_sample > self.failed else ExpertError
        raise cause(
            f"labeling stopped: {self.failed} of {self.seen} samples of {self.column} failed "
            f"({self.failed / self.seen:.1%}), more than max_failures={self.allowed:g} allows:\n"
            + "\n".join(f"  {count} × {self.examples[kind]}" for kind, count in self.reasons.most_common(10))
            + "\nWhat was in work was dropped, what is committed is kept. Mend the cause and run the same again, with "
            "--retry-failed if an expert is mended, or allow more by --max-failures, in a recipe labeling.max_failures."
        )
