"""Parts of the README next to exported labels: columns, conventions, and the command that reads them back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from clipzoo.labeling.exports import _maps
from clipzoo.store import Column

EXACT = (
    "Labels whose frame has the size of the picture are exported as they are. Others are resized to the picture first; "
    "an import then returns the resized label."
)
LISTED = (
    "Samples without a label, and labels that this format cannot hold unchanged, are listed with their reasons in "
    "failures.tsv (shard, key, column, change, reason). Without such a file there are none."
)
CONFIDENCE = "The confidence of a segmentation is a number per label; PNG files do not hold it."


def text(title: str, columns: Sequence[Column], parts: Sequence[str]) -> str:
    """Return a README with the origin of the columns and further ``parts``, each a paragraph or section."""
    rows = [f"| {one.name} | {one.card.uri} | {one.card.license} |" for one in columns]
    table = "\n".join(["| column | expert | license of its weights |", "| --- | --- | --- |", *rows])
    return "\n\n".join([f"# {title}", "Exported by `clipzoo labels export`.", table, *parts, EXACT, LISTED]) + "\n"


def command(source: str, form: str, options: Mapping[str, str]) -> str:
    """Return the command that imports exported labels again, as a block of code."""
    words = [f"--set {shlex.quote(f'{name}={value}')}" for name, value in options.items()]
    return "\n".join([
        "```bash",
        f"clipzoo labels import DATA {shlex.quote(source)} --format {form} --out again/ \\",
        "  " + " ".join(words),
        "```",
    ])  # fmt: skip


def of_map(column: Column, source: str, form: str, classes: str, more: Mapping[str, str] | None = None) -> str:
    """Return the section of a column of maps: its convention, and the command that imports it."""
    options = {**(more or {}), **_maps.options(column)}
    if column.task == "segmentation":
        options["classes"] = f"@{classes}"
    note = f"\n\n{CONFIDENCE}" if column.task == "segmentation" else ""
    return f"## {column.name}\n\n{_maps.meaning(column, classes)}{note}\n\n{command(source, form, options)}"


def class_list(column: Column) -> bytes:
    """Return the class names, one per line in the order of ids, as `clipzoo labels import` reads them."""
    return "".join(f"{name}\n" for name in column.convention.classes).encode()
