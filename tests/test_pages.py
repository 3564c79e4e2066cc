"""All HTML pages share one template and style sheet, and escape the text of users."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import clipzoo
from clipzoo.evaluation import compare, zero_shot
from clipzoo.evaluation.measure import Scored
from clipzoo.labeling import label
from clipzoo.pages import inspect, write_page
from clipzoo.pages.pictures import SIDE, overlay
from clipzoo.readers.webdataset import write_shard
from making import Bright, encoded, image

SOURCE = Path(clipzoo.__file__).parent
EVIL = "<script>alert(1)</script> <img src=x>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Page -> its HTML, with the same hostile text in each."""
    folder = tmp_path_factory.mktemp("pages")
    write_shard(
        folder / "data" / "0.tar", [(str(i), {"png": encoded(image(i)), "txt": EVIL.encode()}) for i in range(3)]
    )
    label(str(folder / "data"), [Bright()], folder / "labels", device="cpu", progress=False, check=False)
    clipzoo.check(str(folder / "data"), folder / "check.html", progress=False)
    inspect(folder / "labels", str(folder / "data"), folder / "gallery.html", 2)
    hits = Scored("zero_shot", ("a", "b"), np.ones((2, 3)), zero_shot.METRIC)
    write_page(compare({"clip": {0: {"zero_shot": hits}}}, resamples=5), folder / "report.html", recipe=EVIL)
    return {name: (folder / f"{name}.html").read_text() for name in ("check", "gallery", "report")}


def test_pages_share_their_style_sheet(pages: dict[str, str]) -> None:
    styles = {re.findall(r"<style>.*?</style>", page, re.DOTALL)[0] for page in pages.values()}
    assert len(styles) == 1


def test_pages_escape_users_and_load_nothing(pages: dict[str, str]) -> None:
    for page in pages.values():
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
        assert page.count("<h1>") == page.count("<main ") == page.count("</html>") == 1


def test_data_uris_and_templates_have_one_home() -> None:
    text = {path.relative_to(SOURCE): path.read_text() for path in SOURCE.rglob("*.py")}
    assert [str(path) for path, code in text.items() if "b64encode" in code] == ["pages/pictures.py"]
    assert [str(path) for path, code in text.items() if "PackageLoader" in code] == ["pages/_html.py"]
    assert not [path for path, code in text.items() if "<html" in code]


def test_an_overlay_has_the_aspect_of_the_image() -> None:
    photo, mask = np.full((400, 800, 3), 200, np.uint8), np.zeros((20, 20, 3), np.uint8)
    blended = overlay(photo, mask)
    assert blended.shape == (SIDE // 2, SIDE, 3)
    assert abs(int(blended[0, 0, 0]) - 70) <= 1  # 35 % of the image
