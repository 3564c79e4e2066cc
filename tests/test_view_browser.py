"""The viewer in headless Chromium: scrolled, searched, filtered, opened and closed by mouse and keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from chromium import chromium, opened, overflow
from clipzoo.viewer import open_viewer
from test_view import EVIL, two_experts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_experts(tmp_path_factory.mktemp("view"), count=200)


def test_the_viewer_is_used_by_keyboard_and_mouse(made: tuple[Path, Path]) -> None:
    with open_viewer(made[0], str(made[1])) as viewer, chromium() as browser, opened(browser, viewer.address) as page:
        assert viewer.scan.wait(60)
        page.wait_for_selector(".card img")
        assert page.url == f"http://127.0.0.1:{viewer.port}/"  # the token is not kept in the history
        assert page.inner_text("#count") == "200 of 200 samples"
        assert page.locator(".card").count() < 60  # a virtual list
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        page.wait_for_selector("#count:has-text('1 of 200 samples')")
        assert page.inner_text(".card h3") == EVIL
        assert page.title().endswith("clipzoo view")
        page.keyboard.press("Escape")
        page.wait_for_selector("#count:has-text('200 of 200 samples')")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.inner_text("dialog .head b") == "000001"
        page.wait_for_selector(".legend li")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("dialog .head b:has-text('000002')")
        page.keyboard.press("Escape")
        assert not page.is_visible("dialog")
        page.select_option("#failed", "any")
        page.wait_for_selector("#count:has-text('1 of 200 samples')")
        assert page.inner_text(".card .why") == "no <i>luck</i>"
        page.click("#reset")
        page.wait_for_selector("#count:has-text('200 of 200 samples')")
        page.select_option("#space-of", "1")
        page.click("#bars button >> text=<b>sofa</b>")
        page.wait_for_selector("#count:has-text('198 of 200 samples')")
        page.select_option("#sort", "disagreement:0")
        page.select_option("#order", "desc")
        page.wait_for_selector(".card > .note:has-text('disagreement')")
        page.keyboard.press("Escape")
        page.keyboard.press("End")
        page.wait_for_selector(".card.on .note")
        assert page.evaluate("document.querySelector('#list').scrollTop") > 500


def test_the_viewer_fits_a_phone(made: tuple[Path, Path]) -> None:
    with (
        open_viewer(made[0], str(made[1])) as viewer,
        chromium() as browser,
        opened(browser, viewer.address, 390) as page,
    ):
        assert viewer.scan.wait(60)
        page.wait_for_selector(".card img")
        assert overflow(page) <= 0
        page.wait_for_selector(".card > .note:has-text('sofa')")
        cut = "notes => notes.filter(n => n.scrollWidth > n.clientWidth || n.scrollHeight > n.clientHeight + 1).length"
        assert page.locator(".card > .note").evaluate_all(cut) == 0
        low = "cards => cards.filter(c => c.scrollHeight > c.clientHeight).length"
        assert page.locator(".card").evaluate_all(low) == 0
        page.click("#open")
        page.fill("#min", "0.9")
        page.select_option("#field", "confidence:0")
        page.click("#open")
        page.wait_for_selector("#count:has-text('20 of 200 samples')")
        page.click(".card")
        page.wait_for_selector("dialog img")
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 390
