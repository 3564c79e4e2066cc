"""Conformance report of an expert: one verdict per test, and the result as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipzoo.errors import ClipzooError

Status = Literal["pass", "unsure", "warn", "fail", "not applicable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of one test.

    Attributes:
        line: name of the test.
        status: ``fail`` breaks the contract; ``warn`` needs manual inspection; ``unsure`` means that the test was
            inconclusive.
        seen: the measurement.
        cause: the problem in a few words; "" if there is none.
        fix: how to fix it.
    """

    line: str
    status: Status
    seen: str
    cause: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.line}: {self.cause or self.status}", self.seen, self.fix) if part)


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """Verdicts on an expert, in the order in which the tests ran."""

    uri: str
    task: str
    lines: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """True if no test failed."""
        return all(verdict.status != "fail" for verdict in self.lines)

    def __getitem__(self, line: str) -> Verdict:
        for verdict in self.lines:
            if verdict.line == line:
                return verdict
        raise ClipzooError(f"the report has no line {line!r}; it has: {', '.join(v.line for v in self.lines)}")
