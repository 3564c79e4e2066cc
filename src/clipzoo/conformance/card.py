"""What a check hands over: a verdict a line, and whether the contract holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from clipzoo.errors import ClipzooError

Status = Literal["pass", "unsure", "warn", "fail", "not applicable"]

COLORS: dict[Status, str] = {
    "pass": "green", "unsure": "cyan", "warn": "yellow", "fail": "bold red", "not applicable": "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of a card.

    Attributes:
        line: what was tested.
        status: ``fail`` breaks the contract; ``warn`` wants a look; ``unsure`` says that the test could not tell.
        seen: what was measured.
        cause: what is wrong, in a few words; "" if nothing is.
        fix: what to do about it.
    """

    line: str
    status: Status
    seen: str
    cause: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.line}: {self.cause or self.status}", self.seen, self.fix) if part)


@dataclass(frozen=True, slots=True)
class Card:
    """The verdicts on an expert, in the order in which they were reached."""

    uri: str
    task: str
    lines: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether no line fails."""
        return all(verdict.status != "fail" for verdict in self.lines)

    def __getitem__(self, line: str) -> Verdict:
        for verdict in self.lines:
            if verdict.line == line:
                return verdict
        raise ClipzooError(f"no line is named {line!r}; there are: {', '.join(v.line for v in self.lines)}")

    def table(self) -> Table:
        """For the terminal."""
        table = Table("line", "verdict", "seen", title=f"{escape(self.uri)}: {self.task}", title_justify="left")
        for one in self.lines:
            seen = "\n".join(part for part in (f"[bold]{escape(one.cause)}[/]" if one.cause else "", escape(one.seen),
                                               f"→ {escape(one.fix)}" if one.fix else "") if part)  # fmt: skip
            table.add_row(one.line, f"[{COLORS[one.status]}]{one.status}[/]", seen)
        return table
