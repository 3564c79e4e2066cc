"""Headless Chromium for tests of pages: open a page of a size, and fail on an error of its script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
DESKTOP, PHONE = (1280, 800), (390, 844)


@contextmanager
def page(size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Any]:
    """Yield a page of playwright; errors of its scripts fail the test. Skipped without playwright or Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set CHROMIUM to its path")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
        )
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        try:
            yield opened
        finally:
            chromium.close()
        assert not errors, errors
