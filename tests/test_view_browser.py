"""The viewer in headless Chromium: scrolled, searched, filtered, opened and closed by mouse and keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import DESKTOP, PHONE, page
from clipzoo.viewer import open_viewer
from test_view import EVIL, two_experts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_experts(tmp_path_factory.mktemp("view"), count=200)


def test_the_viewer_is_used_by_keyboard_and_mouse(made: tuple[Path, Path]) -> None:
    with open_viewer(made[0], str(made[1])) as viewer, page(DESKTOP) as opened:
        assert viewer.scan.wait(60)
        opened.goto(viewer.address)
        opened.wait_for_selector(".card img")
        assert opened.url == f"http://127.0.0.1:{viewer.port}/"  # the token is not kept in the history
        assert opened.inner_text("#count") == "200 of 200 samples"
        assert opened.locator(".card").count() < 60  # a virtual list
        opened.keyboard.press("/")
        opened.keyboard.type("onerror")
        opened.wait_for_selector("#count:has-text('1 of 200 samples')")
        assert opened.inner_text(".card h3") == EVIL
        assert opened.title().endswith("clipzoo view")
        opened.keyboard.press("Escape")
        opened.wait_for_selector("#count:has-text('200 of 200 samples')")
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("Enter")
        assert opened.inner_text("dialog .head b") == "000001"
        opened.wait_for_selector(".legend li")
        opened.keyboard.press("ArrowRight")
        opened.wait_for_selector("dialog .head b:has-text('000002')")
        opened.keyboard.press("Escape")
        assert not opened.is_visible("dialog")
        opened.select_option("#failed", "any")
        opened.wait_for_selector("#count:has-text('1 of 200 samples')")
        assert opened.inner_text(".card .why") == "no <i>luck</i>"
        opened.click("#reset")
        opened.wait_for_selector("#count:has-text('200 of 200 samples')")
        opened.select_option("#space-of", "1")
        opened.click("#bars button >> text=<b>sofa</b>")
        opened.wait_for_selector("#count:has-text('198 of 200 samples')")
        opened.select_option("#sort", "disagreement:0")
        opened.select_option("#order", "desc")
        opened.wait_for_selector(".card > .note:has-text('disagreement')")
        opened.keyboard.press("Escape")
        opened.keyboard.press("End")
        opened.wait_for_selector(".card.on .note")
        assert opened.evaluate("document.querySelector('#list').scrollTop") > 500


def test_the_viewer_fits_a_phone(made: tuple[Path, Path]) -> None:
    with open_viewer(made[0], str(made[1])) as viewer, page(PHONE) as opened:
        assert viewer.scan.wait(60)
        opened.goto(viewer.address)
        opened.wait_for_selector(".card img")
        assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        opened.click("#open")
        opened.fill("#min", "0.9")
        opened.select_option("#field", "confidence:0")
        opened.click("#open")
        opened.wait_for_selector("#count:has-text('20 of 200 samples')")
        opened.click(".card")
        opened.wait_for_selector("dialog img")
        assert opened.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE[0]
