"""Writing an export: in a folder next to its place, renamed when the exported model equals the student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from clipzoo import files
from clipzoo.errors import CheckpointError
from clipzoo.export.base import PARITY, ExportPlugin, Source, sentence
from clipzoo.models import disk_errors
from clipzoo.plugins import Registry

PLUGINS: Registry[ExportPlugin] = Registry(
    "export", ("LIBRARY", "LIMIT", "check", "write", "compare"), noun="export target", option="--to"
)


def export_student(to: str, source: Source, folder: Path) -> dict[str, object]:
    """Write a student in the format of a target, and compare it. Returns the parity, which the folder also contains.

    Args:
        to: the target, a file of this folder.
        source: the student is moved to the CPU, in evaluation mode.
        folder: must not exist, or be empty.

    Raises:
        PluginError: there is no such target.
        CheckpointError: the target cannot express the student, the folder is not empty, or the exported model differs
            from the student.
        OSError: the folder cannot be written; no part of it remains.
    """
    plugin = PLUGINS.load(to)
    source.student.cpu().eval()
    plugin.check(source)
    with _staged(folder) as partial:
        with disk_errors(partial):
            usage = plugin.write(source, partial)
        parity = dict(plugin.compare(source, partial))
        worst = max(cast(float, parity["image_embeddings"]), cast(float, parity.get("text_embeddings", 0.0)))
        if not worst <= plugin.LIMIT:  # NaN, too
            raise CheckpointError(
                f"the model of --to {to} is not the student: loaded by {parity['library']}, its embeddings differ by "
                f"up to {worst:.2g}, more than {plugin.LIMIT:g}. This is an error of clipzoo or of that library. "
                f"Nothing was exported. Report this message with your recipe: {parity}"
            )
        files.write(partial / PARITY, (json.dumps(parity, indent=2) + "\n").encode())
        texts = {
            "library": plugin.LIBRARY,
            "usage": usage.replace("{folder}", source.folder),
            "parity": sentence(parity),
        }
        files.write(partial / "README.md", _filled(source.card, texts).encode("utf-8", "replace"))
    return parity


def _filled(card: str, texts: Mapping[str, str]) -> str:
    for name, text in texts.items():
        card = card.replace(f"{{{name}}}", text)
    return card


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that gets the name of ``folder`` if the block succeeds, and is removed if it fails."""
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} is not empty. An export overwrites nothing. Give another --out, or delete the folder"
        )
    partial = folder.with_name(folder.name + ".partial")
    if partial.is_symlink():
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    with files.named(folder, partial):
        files.make_folder(partial)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
