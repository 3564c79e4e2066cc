"""Export to every target that can express the student, one folder each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.export._writing import PLUGINS, export_student
from clipzoo.export.base import PARITY, Source

LIBRARY = "open_clip"
LIMIT = float("inf")
"""Each target has its own limit."""

REFUSED = "refused.json"


def check(source: Source) -> None:
    """Accept every student: targets that cannot express it are listed in the README."""


def write(source: Source, folder: Path) -> str:
    """Write a folder for each target; ``refused.json`` has the reasons of the others."""
    reasons, lines = {}, []
    for name in targets():
        try:
            export_student(name, _for(name, source), folder / name)
        except OSError:  # the disk is full, also for the others
            raise
        except Exception as error:  # each library has its own kinds
            reasons[name] = _reason(name, error)
            lines.append(f"- {name}: not exported, see `{REFUSED}`")
        else:
            lines.append(f"- [{name}]({name}/README.md)")
    files.write(folder / REFUSED, (json.dumps(reasons, indent=2) + "\n").encode())
    return "Each folder has its own README and parity.\n\n" + "\n".join(lines)


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, CheckpointError):
        return str(error)
    return (
        f"--to {name} failed: {type(error).__name__}: {brief(error)}. This is an error of clipzoo or of the target's "
        "library. Report this message with your recipe"
    )


def targets() -> tuple[str, ...]:
    """Return the names of the other targets."""
    return tuple(name for name in PLUGINS.names() if name != "all")


def _for(name: str, source: Source) -> Source:
    """Return the source of one target, without heads if it has none."""
    return replace(source, heads=source.heads and getattr(PLUGINS.load(name), "HEADS", True), inner=name)


def compare(source: Source, folder: Path) -> dict[str, object]:
    """Return the largest difference of all targets, and the parity of each."""
    each = {
        name: json.loads((folder / name / PARITY).read_text(encoding="utf-8"))
        for name in targets()
        if (folder / name).is_dir()
    }
    if not each:
        raise CheckpointError(f"no target can express this student: {(folder / REFUSED).read_text(encoding='utf-8')}")
    shared = (
        "image_embeddings", "text_embeddings", "other_tokens", "preprocessing_levels", "transform_levels",
        "transform_embeddings",
    )  # fmt: skip
    return {
        "library": "; ".join(one["library"] for one in each.values()),
        **{name: max(one.get(name, 0) for one in each.values()) for name in shared},
        "preprocessing_cosine": min(one["preprocessing_cosine"] for one in each.values()),
        "images": len(source.images),
        "captions": len(source.captions),
        "refused": json.loads((folder / REFUSED).read_text(encoding="utf-8")),
        "targets": each,
    }
