"""``clipzoo app`` with Gradio, in headless Chromium: pictures, prompts, tabs, 3-D and errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chromium import chromium, opened, overflow
from clipzoo import types
from clipzoo.app import serve
from clipzoo.errors import ClipzooError
from clipzoo.models import HeadSpec, Student, load
from clipzoo.tasks import Convention

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.filterwarnings("default")  # Gradio's own packages warn

SPECS = {
    "segmentation/x": HeadSpec("segmentation", Convention(("floor", "red <b>chair</b>")), "linear"),
    "depth/x": HeadSpec("depth", Convention(kind="metric", along="z"), "linear"),
}


@pytest.fixture(scope="module")
def student(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    Student.create(tiny_clip, specs=SPECS).save(folder)
    return folder


@pytest.fixture(scope="module")
def served(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, with a start of the same weights; its folder of pictures is deleted at the end."""
    folder = tmp_path_factory.mktemp("uploads")
    with started(student, "--start", student, folder=folder) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line
        assert list(folder.glob("clipzoo-app-*"))
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not list(folder.glob("clipzoo-app-*"))


@contextmanager
def started(student: Path, *options: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "clipzoo", "app", student, "--device", "cpu", *options]
    environment = {**os.environ, "TMPDIR": str(folder)}
    words = [str(one) for one in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 70, 3), dtype=np.uint8)).save(path)
    return path


def drop(page: Any, path: Path) -> None:
    page.wait_for_selector("#picture input[type=file]", state="attached")
    page.set_input_files("#picture input[type=file]", str(path))


def test_a_dropped_picture_shows_all_heads_of_both_models(browser: Any, served: str, picture: Path) -> None:
    with opened(browser, served) as page:
        drop(page, picture)
        page.wait_for_selector("#heads figure")
        captions = page.locator("#heads figcaption").all_inner_texts()
        assert [text.split("\n")[0].lower() for text in captions] == [
            f"{task} {model} {column}"
            for task, column in (("depth", "depth/x"), ("segmentation", "segmentation/x"))
            for model in ("start", "trained")
        ]
        assert page.locator("#heads b:text-is('chair')").count() == 0
        page.get_by_role("button", name="Remove Image").click()
        page.wait_for_selector("#heads figure", state="detached")


def test_typed_prompts_show_probabilities_heat_maps_and_segments(browser: Any, served: str, picture: Path) -> None:
    with opened(browser, served) as page:
        drop(page, picture)
        page.wait_for_selector("#heads figure")
        page.fill("#prompts textarea", "red, ${6*7} {{value}} <b>green</b>, red")
        page.press("#prompts textarea", "Enter")
        page.get_by_role("tab", name="Prompts").click()
        page.wait_for_selector("#prompted table")
        rows = page.locator("#prompted tbody th").all_inner_texts()
        assert rows == ["red", "${6*7} {{value}} <b>green</b>"]
        shares = [float(text.removesuffix(" %")) for text in page.locator("#prompted .number").all_inner_texts()]
        assert sum(shares) == pytest.approx(200, abs=0.3)
        assert page.locator("#prompted figure").count() == 2 * 2 + 2


def test_the_surface_of_a_depth_map_can_be_seen(browser: Any, served: str, picture: Path) -> None:
    with opened(browser, served) as page:
        drop(page, picture)
        page.wait_for_selector("#heads figure")
        with page.expect_response(lambda response: response.url.endswith(".glb")) as first:
            page.get_by_role("tab", name="Depth in 3-D").click()
        assert first.value.body().startswith(b"glTF")
        page.wait_for_selector("#scene canvas")
        with page.expect_response(lambda response: response.url.endswith(".glb")) as second:
            page.get_by_label("depth/x, start").check()
        assert second.value.url != first.value.url


def test_mistakes_are_sentences_on_the_page(
    browser: Any, served: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with opened(browser, served) as page:
        drop(page, broken)
        page.wait_for_selector("#message [role=alert]")
        assert page.inner_text("#message").startswith("Cannot decode the image (10 bytes")
        page.reload()
        drop(page, picture)
        page.wait_for_selector("#heads figure")
        page.fill("#prompts textarea", ",".join(map(str, range(40))))
        page.get_by_role("button", name="Show predictions").click()
        page.wait_for_selector("#message [role=alert]")
        assert page.inner_text("#message") == "40 prompts are too many to show. Give at most 24."
        page.fill("#prompts textarea", "red")
        page.get_by_role("button", name="Show predictions").click()
        page.wait_for_selector("#message [role=alert]", state="detached")


def test_pictures_above_the_limit_are_refused(student: Path, tmp_path: Path) -> None:
    from clipzoo.app.page import Page

    big = tmp_path / "big.png"
    Image.new("1", (12_000, 12_000)).save(big)
    assert types.MAX_PIXELS < 12_000**2
    message, heads, *_ = Page({"trained": load(student)}, tmp_path).show({"path": str(big)}, "", None, 60)
    assert "The image has 12000×12000 pixels, more than max_pixels=" in message
    assert "figure" not in heads


def test_the_app_fits_a_phone(browser: Any, served: str, picture: Path) -> None:
    with opened(browser, served, width=390) as page:
        drop(page, picture)
        page.wait_for_selector("#heads figure")
        assert overflow(page) <= 0


def test_files_outside_the_uploads_are_refused(served: str, picture: Path) -> None:
    config = httpx.get(f"{served}config").json()
    number = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 4)
    data = [{"path": str(picture), "meta": {"_type": "gradio.FileData"}}, "", None, 60]
    body = {"data": data, "fn_index": number, "session_hash": "x"}
    httpx.post(f"{served}gradio_api/queue/join", json=body).raise_for_status()
    events = httpx.get(f"{served}gradio_api/queue/data", params={"session_hash": "x"}, timeout=30).text
    assert "process_completed" in events
    assert '"success":false' in events
    assert httpx.get(f"{served}gradio_api/file={picture}").status_code == 403


def test_nothing_leaves_the_machine_unless_asked(served: str) -> None:
    assert served.startswith("http://127.0.0.1:")
    config = httpx.get(f"{served}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")


def test_an_address_in_use_is_reported(served: str, student: Path) -> None:
    port = int(served.rstrip("/").rpartition(":")[2])
    with pytest.raises(ClipzooError, match=f"127.0.0.1:{port} cannot be used"):
        serve(student, port=port)
