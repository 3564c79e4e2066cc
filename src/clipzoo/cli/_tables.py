"""Tables and summaries that the verbs print."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, get_args, get_type_hints

from rich.markup import escape
from rich.table import Table

from clipzoo.errors import counted

if TYPE_CHECKING:
    from clipzoo.conformance import ConformanceReport
    from clipzoo.errors import StoreError
    from clipzoo.evaluation.results import Cell, Results
    from clipzoo.evaluation.tradeoff import Tradeoff
    from clipzoo.experts import Family
    from clipzoo.labeling import ColumnReport, Estimate
    from clipzoo.runs.ablation.advise import AdviceResults
    from clipzoo.store import Column
    from clipzoo.tasks import Convention, Task

KINDS = 3
"""Kinds of failures that the table of labeling lists."""

COLORS = {"pass": "green", "unsure": "cyan", "warn": "yellow", "fail": "bold red", "not applicable": "dim"}
"""Colors of verdicts."""


def two_columns(rows: Iterable[tuple[str, str]], *headers: str) -> Table:
    """Return a table of (name, text) rows; without ``headers`` it has none."""
    table = Table(*headers, show_header=bool(headers))
    for name, text in rows:
        table.add_row(name, escape(text))
    return table


def advice(results: AdviceResults) -> Table:
    """Return a row per expert: its gain alone, what it improves and harms, and the cost of labeling all data."""
    from clipzoo.pages import words
    from clipzoo.runs.ablation.advise import ranked

    table = _wide("expert alone", "dense gain in points", "improves", "harms", "time of labeling")
    for name, one in ranked(results["advice"]):
        changes = (", ".join(map(words.group_name, one[kind])) or "–" for kind in ("better", "worse"))
        table.add_row(
            name, f"{100 * one['gain']:+.1f}", *changes, words.duration(3600 * one["hours"]) if one["hours"] else "–"
        )
    return table


def _wide(*names: str, width: int = 20) -> Table:
    """Return an empty table whose first column is at least ``width`` characters wide."""
    table = Table()
    for number, name in enumerate(names):
        table.add_column(name, min_width=None if number else width)
    return table


# Labels ----------------------------------------------------------------------------------------------------


def manifests(columns: Sequence[Mapping[str, str]]) -> Table:
    """Return the facts of columns side by side; each is a mapping from `clipzoo.store.summary.summary`."""
    table = Table(title="Columns", show_lines=True)
    for name in ("", *(facts["column"] for facts in columns)):
        table.add_column(escape(name))
    for name in columns[0]:
        if name != "column":
            table.add_row(name, *(escape(facts[name]) for facts in columns))
    return table


COLUMN_FACTS = ("column", "expert", "license", "shards", "labels", "failures", "bytes", "seconds", "images/s")


def store_columns(columns: Mapping[str, Column | StoreError]) -> Table:
    """Return a row per column of a store, with `COLUMN_FACTS`; a damaged one with its error."""
    from clipzoo.store import Column
    from clipzoo.store.summary import summary

    table = _wide(*COLUMN_FACTS, width=24)
    for name, column in columns.items():
        if isinstance(column, Column):
            facts = {**summary(column), "bytes": f"{column.manifest.counts.bytes:,}"}
        else:
            facts = {"column": name, "expert": str(column)}
        table.add_row(*(escape(facts.get(fact, "")) for fact in COLUMN_FACTS))
    return table


def labeled(reports: Sequence[ColumnReport]) -> Table:
    """Return the contents of columns after labeling: labels, new labels, failures with reasons, and cost."""
    table = _wide("column", "labels", "new labels", "failures", "bytes per label", "ms per image")
    for r in reports:
        reasons = [f"{count} × {escape(reason)}" for reason, count in r.reasons.items()]
        lines = [f"{r.failures:,}", *reasons[:KINDS]]
        more = len(reasons) - KINDS
        if more > 0:
            lines.append(f"and {more} more kind{'s' if more > 1 else ''}")
        if r.halved_to:
            lines.append(f"out of memory: batches were halved to {r.halved_to}")
        cost = (f"{r.bytes_per_image:,.0f}", f"{1000 * r.seconds_per_image:,.1f}")
        table.add_row(f"{r.task}/{r.slug}", f"{r.labels:,}", f"{r.labeled:,}", "\n".join(lines), *cost)
    return table


def failure_examples(reports: Sequence[ColumnReport]) -> Iterator[str]:
    """Yield an example of the most frequent failure of each column, and the command that lists all."""
    for r in reports:
        for example in list(r.examples.values())[:1]:
            yield f"{r.task}/{r.slug}: for example {example}\nall of them: {r.listing}"


def estimated(guess: Estimate) -> Table:
    """Return the estimated cost of labeling, a row per column."""
    table = _wide("column", "bytes", "ms per image", "failures")
    for c in guess.columns:
        table.add_row(c.name, f"{c.bytes:,.0f}", f"{1000 * c.seconds_per_image:,.1f}", f"{c.failures:.1%}")
    return table


def estimated_total(guess: Estimate, price: float | None) -> str:
    """Return the estimated cost of labeling in total; ``price`` is that of an hour."""
    total = (
        f"{counted(guess.samples, 'sample')}: {timedelta(seconds=round(guess.seconds))}, {guess.bytes / 1e6:,.1f} MB"
    )
    if price is not None:
        total += f", {guess.price(price):,.2f} at {price:g} per hour"
    return f"{total}; measured on {counted(guess.measured, 'sample')}, whose labels were discarded"


# Experts ---------------------------------------------------------------------------------------------------


def zoos() -> Table:
    """Return a row per zoo with its description; no zoo is imported."""
    from clipzoo import experts

    rows = [
        (f"{name}:", first_line(registry.description(name)))
        for registry in experts.REGISTRIES
        for name in registry.names()
    ]
    return two_columns(sorted(rows), "zoo", "description")


def families(rows: Iterable[tuple[str, Family]]) -> Table:
    """Return a row per (zoo, model family)."""
    table = Table("family", "task", "labels and their source", show_lines=True)
    for zoo, family in rows:
        tested = "tested" if family.seen else "not tested"
        table.add_row(
            *map(escape, (f"{zoo}: {family.name}", family.task, f"{family.gives}\n{family.source}\n{tested}"))
        )
    return table


def verdicts(report: ConformanceReport) -> Table:
    """Return a row per verdict on an expert."""
    table = Table("line", "verdict", "result", title=f"{escape(report.uri)}: {report.task}", title_justify="left")
    for one in report.lines:
        lines = [f"[bold]{escape(one.cause)}[/]"] if one.cause else []
        lines.append(escape(one.seen))
        if one.fix:
            lines.append(f"→ {escape(one.fix)}")
        table.add_row(one.line, f"[{COLORS[one.status]}]{one.status}[/]", "\n".join(lines))
    return table


# Tasks -----------------------------------------------------------------------------------------------------


def without_markup(docstring: str) -> str:
    """Return the docstring of a module without markup."""
    return docstring.replace("`", "").strip()


def first_line(docstring: str) -> str:
    """Return the first line of the docstring of a module."""
    return without_markup(docstring).partition("\n")[0]


def task_facts(task: Task[object]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the task's measures, and of the heads and losses that a recipe may choose."""
    from clipzoo.tasks import Convention

    kinds = get_args(get_args(get_type_hints(Convention)["kind"])[0])
    conventions = {kind: Convention(("a", "b"), kind, "z") for kind in kinds}
    yield "stored as", f".{task.extension}"
    yield "measures", "\n".join(_measures(task, conventions[kinds[0]]))
    yield "heads", "\n".join(_heads(task, conventions[kinds[0]]))
    kinds_by_losses: dict[tuple[str, ...], list[str]] = {}
    for kind, convention in conventions.items():
        kinds_by_losses.setdefault(task.offered(convention), []).append(kind)
    for names, of in kinds_by_losses.items():
        label = "losses" if len(kinds_by_losses) == 1 else f"losses, {' and '.join(of)}"
        lines = [f"{name}{_options(task.criterion(conventions[of[0]], name))}" for name in names]
        yield label, "\n".join([f"{lines[0]} (default)", *lines[1:]] if lines else ["built in"])
    weighted = task.confidences([None], (1, 1)) is not None
    yield "confidence_weight", "supported" if weighted else "not supported: labels have no confidence"
    trimmed = {one for of in conventions.values() for one in task.offered(of) if task.trims(of, one)}
    yield "trim", ", ".join(sorted(trimmed)) or "not supported"


def _measures(task: Task[object], convention: Convention) -> Iterator[str]:
    for name, measure in task.metric(convention).measures.items():
        unit = f" in {measure.unit}" if measure.unit else ""
        yield f"{name}{unit}, {measure.direction} is better"


def _heads(task: Task[object], convention: Convention) -> Iterator[str]:
    from clipzoo import heads

    fitting = [name for name in heads.PLUGINS.names() if _fits(name, task, convention)]
    for name in sorted(fitting, key=lambda name: name != task.head):
        default = " (default)" if name == task.head else ""
        yield f"{name}{_options(heads.PLUGINS.load(name).Head)}{default}"


def _fits(head: str, task: Task[object], convention: Convention) -> bool:
    from clipzoo import heads

    try:
        heads.create(head, [8], task.raw_channels(convention))
    except Exception:  # third-party code
        return False
    return True


def _options(function: Callable[..., object]) -> str:
    """Return keywords with their defaults, as a recipe's ``head_options`` or ``loss_options`` names them."""
    parameters = inspect.signature(function).parameters.values()
    options = [f"{one.name}: {one.default}" for one in parameters if one.default is not one.empty]
    return f" {{{', '.join(options)}}}" if options else ""


# The machine -----------------------------------------------------------------------------------------------


def machine() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of software versions, cores, memory, disk and GPUs."""
    import os
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import torch

    yield "python", platform.python_version()
    for package in ("clipzoo", "torch", "torchvision", "open_clip_torch", "transformers", "onnxruntime", "pillow"):
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    yield "cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads"
    yield "memory", _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    yield "disk", f"{_gigabytes(shutil.disk_usage('.').free)} free in the working directory"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{gpu.name} ({_gigabytes(gpu.total_memory)})" for gpu in gpus)
    yield "GPU", names or "none: everything runs on the CPU"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


# Models ----------------------------------------------------------------------------------------------------


def compared(results: Results) -> Table:
    """Return a row per measure of the test benchmark, and a column per model with its interval."""
    rows = {**results["arms"], **results["baselines"]}
    table = Table("measure", *(escape(name) for name in rows), title="test")
    for measure in dict.fromkeys(name for cells in rows.values() for name in cells):
        table.add_row(measure, *(_cell(cells.get(measure)) for cells in rows.values()))
    return table


def _cell(cell: Cell | None) -> str:
    """Return a mean with its interval; shares are percentages."""
    from clipzoo.evaluation.measure import rounded

    if cell is None or cell["mean"] is None:
        return "–"
    share = not cell["unit"]
    text = rounded(cell["mean"], 1 if share else 3, share) + ("" if share else f" {cell['unit']}")
    if not cell["ci"]:
        return text
    low, high = (rounded(value, 1 if share else 3, share) for value in cell["ci"])
    return f"{text} [dim]\\[{low}, {high}][/]"


# Interpolation ---------------------------------------------------------------------------------------------


def tradeoff(found: Tradeoff, title: str) -> Table:
    """Return the trade-off of interpolated students on validation; the chosen row is bold."""
    from clipzoo.evaluation.measure import rounded

    table = Table(title=f"{escape(title)}: {found.measure} on {counted(found.images, 'image')} of validation")
    for name in ("α", "zero-shot", "loss", "95 % interval", f"loss ≤ {found.max_loss:g}", "dense mean", "gain kept"):
        table.add_column(name)
    for point in found.points:
        low, high = point.loss_ci or (float("nan"), float("nan"))
        kept = found.kept(point)
        table.add_row(
            f"{point.alpha:g}",
            f"{point.recognition:.4f}",
            _signed(point.loss),
            f"{_signed(low)} to {_signed(high)}",
            "yes" if point.within(found.max_loss) else "no",
            f"{point.dense:.4f}",
            "–" if kept is None else f"{rounded(kept, 0, percent=True)}%",
            style="bold" if point is found.best else None,
        )
    return table


def _signed(number: float) -> str:
    """Return a number with its sign; zero has none."""
    text = f"{number:+.4f}"
    return text if text.strip("+-0.") else text[1:]
