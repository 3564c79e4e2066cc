"""The documentation site builds without a broken link, and its API reference lists every public name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import clipzoo

ROOT = Path(__file__).parent.parent


def test_the_reference_lists_every_public_name() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    names = {path.rpartition(".")[2] for path in listed}
    aliases = {"load_recipe": "load", "ClipzooError": "errors"}
    assert {aliases.get(name, name) for name in clipzoo.__all__} <= names


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
