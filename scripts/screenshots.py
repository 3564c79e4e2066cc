"""Write the screenshots of docs/images: every page at the widths of a desktop and of a phone, in headless Chromium.

python scripts/screenshots.py runs/demo --other runs/demo-short       (or: make screenshots)

RUN is an evaluated run of the demo, and OTHER a second one for the comparison. Needs Playwright (it uses the installed
Chromium) and, for the app, Gradio. A new page is one line in `shots`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

CLIPZOO = (sys.executable, "-m", "clipzoo")
DATA = "demo:captioned"
PROMPTS = "an armchair,a table,a lamp"
PICTURES = ("pictures/room-5.png", "pictures/room-9.png")
"""Rendered test pictures of the demo, by number."""

SIZES = {"desktop": (1280, 900, 1), "phone": (390, 844, 2)}
"""Width, height and device pixels per pixel."""

MOST = 300_000
"""Largest file in bytes; the quality is lowered until it fits."""

TABS = {"Heads": "#heads figure", "Prompts": "#prompted figure", "Depth in 3-D": "#scene canvas"}
"""Tab of the app -> what it shows when it is ready."""

SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Root has no sandbox, and machines without a GPU draw WebGL in software."""


@dataclass(frozen=True)
class Shot:
    """A page: a command that writes a file or, without one, prints the address that it serves; and what to do there."""

    name: str
    command: tuple[str, ...]
    file: Path | None = None
    prepare: Callable[[Page], object] = lambda page: None


def shots(run: str, other: str | None, work: Path) -> Iterator[Shot]:
    """Yield all pages, with paths relative to ``work``; those whose command or run is missing are left out."""
    store, gallery, compared = f"{run}/labels", work / "gallery.html", work / "comparison" / "page.html"
    report, page = ("report", run), work / run / "page.html"
    predict = ("predict", run, "pictures", "--prompts", PROMPTS, "--out", "look.html", "--device", "cpu")
    app = partial(dropped, picture=work / PICTURES[0])
    yield Shot("report", report, page)
    yield Shot("report-rows", report, page, partial(to, selector="#rows"))
    yield Shot("report-pictures", report, page, partial(to, selector="#pictures"))
    yield Shot("gallery", ("inspect", store, "--data", DATA), gallery, partial(to, selector="#samples"))
    yield Shot("predict", predict, work / "look.html", partial(to, selector="#pictures"))
    if other is not None:
        yield Shot("comparison", ("report", run, other, "--out", "comparison"), compared)
        yield Shot("comparison-differences", ("report", run, other, "--out", "comparison"), compared, last_gain)
    view = ("view", store, "--data", DATA)
    yield Shot("view", view, prepare=browsed)
    yield Shot("view-class", view, prepare=partial(browsed, of_class=True))
    yield Shot("view-sample", view, prepare=partial(browsed, opened=True))
    if importlib.util.find_spec("gradio"):
        for name, tab in (("app", "Heads"), ("app-prompts", "Prompts"), ("app-depth", "Depth in 3-D")):
            yield Shot(name, ("app", run, "--device", "cpu"), prepare=partial(app, tab=tab))


# Steps on a page -------------------------------------------------------------------------------------------


def to(page: Page, selector: str) -> None:
    """Scroll to an element."""
    page.evaluate("selector => document.querySelector(selector).scrollIntoView({behavior: 'instant'})", selector)


def last_gain(page: Page) -> None:
    """Scroll to the differences of the arm clipzoo."""
    page.locator("#differences h3").last.evaluate("title => title.scrollIntoView({behavior: 'instant'})")


def until(page: Page, condition: str) -> None:
    """Wait until JavaScript is true (Playwright 1.5x's wait_for_function needs eval, which the viewer forbids)."""
    while not page.evaluate(condition):
        page.wait_for_timeout(200)


def browsed(page: Page, of_class: bool = False, opened: bool = False) -> None:
    """Wait until the viewer has read all labels; select the second class of the histogram, or open a sample."""
    until(page, "about && about.done >= about.total")
    narrow = page.locator("#open").is_visible()
    if of_class and narrow:
        page.click("#open")
    if of_class:
        page.locator("#bars button").nth(1).click()
        page.locator("#bars button").nth(1).evaluate("one => one.scrollIntoView({block: 'center'})")
    if opened:
        page.locator(".card").first.click()
        page.wait_for_selector("dialog .legend li")
    until(page, "[...document.images].every(one => one.complete)")


def dropped(page: Page, picture: Path, tab: str = "Heads") -> None:
    """Give a picture and prompts to the app, and open a tab."""
    page.wait_for_selector("#picture input[type=file]", state="attached")
    page.set_input_files("#picture input[type=file]", str(picture))
    page.wait_for_selector("#heads figure")
    page.fill("#prompts textarea", PROMPTS.replace(",", ", "))
    page.press("#prompts textarea", "Enter")
    for name in ("Prompts", tab):  # Gradio draws a tab when it is opened
        page.get_by_role("tab", name=name).click()
        page.wait_for_selector(TABS[name], timeout=60_000)
    if tab == "Depth in 3-D":
        page.wait_for_timeout(8000)  # software draws slowly
    if page.viewport_size and page.viewport_size["width"] < 600:
        page.get_by_role("tab", name=tab).evaluate("tab => tab.scrollIntoView()")


# Pages and files -------------------------------------------------------------------------------------------


@contextmanager
def opened(shot: Shot, work: Path) -> Iterator[str]:
    """Yield the address of a page."""
    if shot.file is not None:
        written(shot.command, work)
        yield shot.file.resolve().as_uri()
        return
    with subprocess.Popen([*CLIPZOO, *shot.command], stdout=subprocess.PIPE, text=True, cwd=work) as server:
        try:
            yield next(found[0] for line in server.stdout or () if (found := re.search(r"http://\S+", line)))
        finally:
            server.terminate()


@cache
def written(command: tuple[str, ...], work: Path) -> None:
    """Run a command, once for all its pages."""
    subprocess.run([*CLIPZOO, *command], check=True, stdout=subprocess.DEVNULL, cwd=work)


def take(browser: Browser, shot: Shot, work: Path, out: Path) -> None:
    """Write the files of one page."""
    with opened(shot, work) as address:
        for size, (width, height, scale) in SIZES.items():
            view = {"width": width, "height": height}
            with browser.new_context(viewport=view, device_scale_factor=scale, color_scheme="light") as context:
                page = context.new_page()
                page.goto(address)
                shot.prepare(page)
                page.wait_for_timeout(300)
                path = out / f"{shot.name}-{size}.webp"
                path.write_bytes(webp(page.screenshot()))
                print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


def webp(png: bytes) -> bytes:
    """Return a picture as WebP of at most `MOST` bytes."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    for quality in range(85, 0, -10):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= MOST:
            return file.getvalue()
    raise SystemExit(f"a screenshot is larger than {MOST:,} bytes at every quality")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", help="names of pages, such as report")
    given = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("needs Chromium: apt-get install chromium")
    from clipzoo.demo.rooms import render

    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        work = Path(folder)
        runs = [linked(run, work) for run in (given.run, given.other) if run is not None]
        for name in PICTURES:
            (work / name).parent.mkdir(exist_ok=True)
            Image.fromarray(render(int(Path(name).stem.partition("-")[2]), "test", 480).image).save(work / name)
        browser = playwright.chromium.launch(executable_path=program, args=SOFTWARE)
        for shot in shots(runs[0], runs[1] if len(runs) > 1 else None, work):
            if not given.only or shot.name in given.only:
                take(browser, shot, work, given.out)
        browser.close()


def linked(run: Path, work: Path) -> str:
    """Return a path of a run that shows no folder of this machine."""
    link = work / "runs" / run.name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(run.resolve())
    return f"runs/{run.name}"


if __name__ == "__main__":
    main()
