"""Headless Chromium for tests of pages; tests are skipped where it or Playwright is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OPTIONS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Root has no sandbox, and machines without a GPU draw WebGL in software."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser of Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str, width: int = 1280) -> Iterator[Any]:
    """Yield a page at an address, and assert that it has no error and loads nothing from other places."""
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if _far(request.url) else None)
        page.goto(address)
        yield page
        assert not faults


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def _far(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
