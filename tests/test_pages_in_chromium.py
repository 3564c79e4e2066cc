"""The pages in headless Chromium: clicks, keys, folds and enlarged pictures, on desktops and phones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import clipzoo
from chromium import chromium, opened, overflow
from clipzoo.models import HeadSpec, Student
from clipzoo.pages.gallery import inspect
from clipzoo.runs.comparing import compare_runs
from clipzoo.tasks import Convention
from test_compare_runs import three  # noqa: F401
from test_pipeline import world  # noqa: F401
from test_report import page as report_html  # noqa: F401
from test_report import results, runs  # noqa: F401

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(report_html: str, tmp_path_factory: pytest.TempPathFactory) -> str:  # noqa: F811
    path = tmp_path_factory.mktemp("report") / "page.html"
    path.write_text(report_html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def gallery(dataset: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    inspect(labels, str(dataset), path, 6)
    return path.as_uri()


@pytest.fixture(scope="module")
def predictions(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("predictions")
    head = HeadSpec("depth", Convention(kind="metric", along="z"), "linear")
    Student.create(tiny_clip, specs={"depth/a-name-without-a-place-to-break-it": head}).save(folder / "student")
    Image.effect_noise((200, 90), 80).convert("RGB").save(folder / "noise.png")
    (folder / "broken.png").write_bytes(b"no picture")
    pictures = [folder / "noise.png", folder / "broken.png"]
    shown = clipzoo.show(folder / "student", pictures, "red, a photo of a " + "very " * 20 + "long square")
    return shown.save(folder / "look.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(
    browser: Any, report: str, gallery: str, predictions: str, width: int
) -> None:
    for address in (report, gallery, predictions):
        with opened(browser, address, width) as page:
            assert overflow(page) <= 0, address


def test_the_button_of_the_report_switches_to_dark_colors(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        color = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(color)
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(color) != light
        page.get_by_role("button", name="Light").click()
        assert page.evaluate(color) == light


def test_a_click_enlarges_a_picture_and_escape_closes_it(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        picture = page.locator("button.picture").nth(1)
        words = picture.locator("img").get_attribute("alt")
        picture.click()
        assert page.locator("#zoom").is_visible()
        assert page.inner_text("#zoom p") == words
        page.keyboard.press("Escape")
        assert page.locator("#zoom").is_hidden()
        picture.focus()
        page.keyboard.press("Enter")
        page.locator("#zoom img").click()
        assert page.locator("#zoom").is_hidden()


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_the_report_unfold(browser: Any, report: str, width: int) -> None:
    with opened(browser, report, width) as page:
        folded = page.locator("details:not([open])").first
        name = folded.locator("summary").inner_text()
        fold = page.locator("details", has=page.locator("summary", has_text=name)).first
        assert not fold.locator("table").is_visible()
        fold.locator("summary").click()
        assert fold.locator("table").is_visible()


def test_links_of_the_bar_lead_to_their_sections(browser: Any, report: str, gallery: str) -> None:
    for address in (report, gallery):
        with opened(browser, address) as page:
            for link in page.locator("nav a").all():
                link.click()
                page.wait_for_timeout(50)
                target = page.url.partition("#")[2]
                assert page.locator(f"#{target} h2").first.is_visible()


def test_the_first_key_offers_a_way_past_the_bar(browser: Any, gallery: str) -> None:
    with opened(browser, gallery) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")


def test_a_phone_shows_labels_of_the_gallery_in_two_columns(browser: Any, gallery: str) -> None:
    with opened(browser, gallery, 390) as page:
        boxes = [figure.bounding_box() for figure in page.locator(".samples").first.locator("figure").all()]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert all(box["width"] > 150 for box in boxes)


def test_predictions_list_failures(browser: Any, predictions: str) -> None:
    with opened(browser, predictions, 390) as page:
        page.get_by_role("link", name="Failures").click()
        assert "cannot decode" in page.inner_text("#failures")


@pytest.mark.slow
def test_a_phone_shows_verdicts_of_a_comparison(
    browser: Any,
    three: list[Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    address = compare_runs(three[:2], tmp_path).as_uri()
    with opened(browser, address, 390) as page:
        assert overflow(page) <= 0
        badge = page.locator("#differences .badge").last
        badge.scroll_into_view_if_needed()
        assert badge.bounding_box()["x"] + badge.bounding_box()["width"] <= 390
        fold = page.locator("#values details").last
        fold.locator("summary").click()
        names = fold.locator("tbody th").first
        fold.locator(".scroll").evaluate("box => box.scrollLeft = 1000")
        assert names.bounding_box()["x"] < 30  # names of rows stay
