"""Writing an export: in a partial folder, which takes its place when the exported model equals the student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import uuid4

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
        folder: must not exist, or be empty and not a link.

    Raises:
        PluginError: there is no such target.
        CheckpointError: the target cannot express the student, the folder is a link, a file or not empty, or the
            exported model differs from the student.
        OSError: the folder cannot be written; no part of it remains.
    """
    plugin = PLUGINS.load(to)
    target = _free(folder)
    source.student.cpu().eval()
    plugin.check(source)
    with _staged(target) as partial:
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


def _free(folder: Path) -> Path:
    """Return the absolute path of a folder that does not exist or is empty.

    Raises:
        CheckpointError: it is a link, a file, or not empty.
    """
    if folder.is_symlink():
        raise CheckpointError(
            f"{folder} is a link to {folder.readlink()}. An export writes through no link. Give --out "
            f"{folder.resolve()}, or remove the link"
        )
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{folder} is a file. An export is a folder. Give another --out, or remove the file")
    if target.is_dir() and any(target.iterdir()):
        raise _not_empty(target)
    return target


def _not_empty(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} is not empty. An export overwrites nothing. Give another --out, or delete the folder"
    )


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield an empty folder whose content is that of ``target`` if the block succeeds, and is removed if it fails.

    An existing folder is filled, not replaced: it may be a mount point or the current folder of a shell.
    """
    filled = target.is_dir()
    partial = (target if filled else target.parent) / f".{target.name}.{uuid4().hex[:8]}.partial"
    with files.named(target, partial):
        files.make_folder(partial)
    try:
        yield partial
        if filled:
            _move_up(partial)
        else:
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _move_up(partial: Path) -> None:
    """Move the content of a folder into its parent, which has nothing else."""
    if [path for path in partial.parent.iterdir() if path != partial]:
        raise _not_empty(partial.parent)
    for path in list(partial.iterdir()):
        path.rename(partial.parent / path.name)
    partial.rmdir()
