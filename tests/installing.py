"""Packages of a user, for tests: written, and installed as `pip install -e .` would, without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clipzoo import plugins

DOCS = Path(__file__).parent.parent / "docs"


def written(page: str) -> dict[str, str]:
    """File name -> text, of the blocks of a page of docs/ that begin with the name of their file."""
    blocks = re.findall(r"```(?:python|toml|yaml)\n# (\S+\.\w+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return dict(blocks)


def commands(page: str) -> list[list[str]]:
    """Arguments of every ``clipzoo …`` in the consoles of a page."""
    consoles = re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line.split()[1:] for text in consoles for line in text.splitlines() if line.startswith("clipzoo ")]


@contextmanager
def installed(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """A package in ``folder``, whose entry points are known while the block lasts."""
    for name, text in files.items():
        (folder / name).write_text(text)
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"], cwd=folder, check=True
    )
    modules = [name.removesuffix(".py") for name in files if name.endswith(".py")]
    sys.path.insert(0, str(folder))
    forget()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for module in modules:
            sys.modules.pop(module, None)
        forget()


def forget() -> None:
    """Look for plugins anew."""
    for one in (plugins.names, plugins.installed, plugins._load):
        one.cache_clear()
