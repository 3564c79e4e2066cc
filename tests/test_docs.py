"""The documentation site builds without a broken link, and its API reference lists every public name."""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import clipzoo

ROOT = Path(__file__).parent.parent


LISTED = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)


def test_the_reference_lists_every_public_name() -> None:
    missing = [name for name in clipzoo.__all__ if getattr(clipzoo, name) not in _documented()]
    assert not missing, "add a `:::` line to docs/reference.md for each"


def test_the_reference_lists_the_protocol_of_every_plugin_folder() -> None:
    protocols = set()
    for path in (ROOT / "src" / "clipzoo").rglob("*.py"):
        protocols |= set(re.findall(r"Registry\[(\w+)\]", path.read_text())) - {"P"}
    assert len(protocols) > 8
    missing = protocols - {path.rpartition(".")[2] for path in LISTED}
    assert not missing, "add a `:::` line to docs/reference.md for each"


def _documented() -> list[object]:
    """Return the objects of the reference; a module counts as its classes and functions."""
    objects: list[object] = []
    for path in LISTED:
        found = pkgutil.resolve_name(path)
        objects += vars(found).values() if isinstance(found, ModuleType) else [found]
    return objects


@pytest.mark.slow
def test_the_site_builds_strictly_with_the_reference(tmp_path: Path) -> None:
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    built = subprocess.run(
        [str(Path(sys.executable).with_name("zensical")), "build", "--strict"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "max_failures" in page, "the signature and arguments of label"
