"""The page of an ablation: which expert helps which task, as heat maps, with the cost of labeling."""

from __future__ import annotations

from pathlib import Path

from clipzoo.evaluation.results import AblationResults
from clipzoo.files import write
from clipzoo.pages import _html, words
from clipzoo.pages.report import _cost as cost_table

SIGNS = {"better": "▲", "worse": "▼", "unclear": "○"}
SECTIONS = (
    ("without", "Effect of each expert next to the others", "All experts minus all without this one."),
    ("only", "Effect of each expert alone", "Only this expert minus captions alone (clip-ft)."),
    ("named", "Subsets of the recipe", "The subset minus captions alone (clip-ft)."),
)


def write_ablation(results: AblationResults, out: Path, title: str = "", summary: str = "") -> Path:
    """Write the page of ``ablation.json``, or of results of the same form; return its path.

    ``title`` and ``summary`` replace those of an ablation.
    """
    metrics = words.headlines(results)
    maps = [(title, note, _rows(results, kind, metrics)) for kind, title, note in SECTIONS]
    shown = [part for part in maps if part[2]]
    write(
        out,
        _html.render(
            "ablation.html",
            title=title or f"Ablation of {results['recipe']}",
            results=results,
            metrics=metrics,
            maps=shown,
            rows={row: [_value(results, row, metric) for metric in metrics] for row in results["arms"]},
            summary=summary or _summary(results, metrics),
            cost=cost_table(results["cost"]),
            signs=SIGNS,
            words=words,
        ),
    )
    return out


def _value(results: AblationResults, row: str, metric: str) -> str:
    cell = results["arms"][row].get(metric)
    return words.value(cell["mean"], cell["unit"]) if cell else "–"


def _pair(kind: str, name: str) -> str:
    return f"all-vs-{name}" if kind == "without" else f"{name}-vs-clip-ft"


def _rows(
    results: AblationResults, kind: str, metrics: list[str]
) -> list[tuple[str, list[tuple[words.Verdict | None, int]]]]:
    """Return (row, cells) of a heat map; a cell is a verdict and the strength of its color, 0 to 100."""
    chosen = {name: one for name, one in results["variants"].items() if one["kind"] == kind}
    table = {
        one["column"] or name: [words.judge(results, metric, _pair(kind, name)) for metric in metrics]
        for name, one in chosen.items()
    }
    gains = {name: [abs(v.gain or 0) if v else 0.0 for v in row] for name, row in table.items()}
    reach = [max(column) or 1 for column in zip(*gains.values(), strict=True)]
    return [
        (name, [(v, round(45 * gains[name][i] / reach[i])) for i, v in enumerate(row)]) for name, row in table.items()
    ]


def _summary(results: AblationResults, metrics: list[str]) -> str:
    """Return a sentence for each expert that clearly helps or harms a task next to the others, or one on all tested."""
    sentences, tested = [], list[str]()
    for name, one in results["variants"].items():
        if one["kind"] != "without":
            continue
        judged = [words.judge(results, metric, _pair("without", name)) for metric in metrics]
        tested += [one["column"]] if any(judged) else []
        clear = [f"{words.group_name(v.metric)} ({v.text})" for v in judged if v and v.state != "unclear"]
        if clear:
            sentences.append(f"{one['column']} changes {', '.join(clear)}.")
    if sentences or not tested:
        return " ".join(sentences)
    if {*results["columns"]} <= {*tested}:
        return "No expert clearly changes a main measure next to the others."
    verb = "does" if len(tested) == 1 else "do"
    return f"{words.listed(tested)} {verb} not clearly change a main measure next to the others."
