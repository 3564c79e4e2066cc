"""Measure scrolling in the viewer, in headless Chromium: python benchmarks/view_scrolling.py STORE DATA.

Prints seconds to the printed address, to the first card with its pictures, and of scroll steps to random places, until
all pictures there are drawn; and the memory of the server, the page and its process. Needs Playwright and Chromium.
"""

from __future__ import annotations

import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DRAWN = "!!document.querySelector('.card img') && [...document.images].every(one => one.complete)"
"""True when all pictures are drawn; the cards of a page that is not loaded yet are missing, which `WAITING` finds."""
WAITING = "[...Array(Math.min(total, first() + per) - first()).keys()].some(i => !drawn.has(first() + i))"


def megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def seconds(page: Page, action: str) -> float:
    """Return the time from a step in JavaScript until everything visible is drawn."""
    began = time.perf_counter()
    page.evaluate(
        f"() => new Promise(done => {{ {action}; requestAnimationFrame(() => requestAnimationFrame(done)); }})"
    )
    while page.evaluate(WAITING) or not page.evaluate(DRAWN):
        page.wait_for_timeout(5)
    return time.perf_counter() - began


def told(name: str, times: list[float]) -> None:
    """Print median and maximum."""
    print(f"{name}: median {statistics.median(times):.2f} s, at most {max(times):.2f} s ({len(times)} steps)")


def renderer() -> float:
    """Return the memory of the largest renderer process of Chromium."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    pids = [int(line.split()[0]) for line in listed.splitlines() if "--type=renderer" in line]
    return max(megabytes(pid) for pid in pids)


def main() -> None:
    store, data = sys.argv[1:]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    began = time.perf_counter()
    command = [sys.executable, "-m", "clipzoo", "view", store, "--data", data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = re.findall(r"http://\S+", server.stdout.readline())[0]
        print(f"the address: {time.perf_counter() - began:.2f} s, server {megabytes(server.pid):.0f} MB")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        opened = time.perf_counter()
        page.goto(address)
        page.wait_for_selector(".card")
        print(f"the first card: {time.perf_counter() - opened:.2f} s")
        while not page.evaluate(DRAWN):
            page.wait_for_timeout(5)
        print(f"its pictures (imports PyTorch): {time.perf_counter() - opened:.2f} s")
        draw, high = random.Random(0), page.evaluate("document.querySelector('#list').scrollHeight")
        lines = [seconds(page, "document.querySelector('#list').scrollTop += 210") for _ in range(30)]
        told("one line down, while the viewer reads", lines)
        scroll = "document.querySelector('#list').scrollTop = {}"
        told("to random places, while the viewer reads", [
            seconds(page, scroll.format(draw.randrange(high))) for _ in range(30)
        ])  # fmt: skip
        while not page.evaluate("about.done >= about.total"):
            page.wait_for_timeout(500)
        print(f"all captions and classes are read: {time.perf_counter() - opened:.0f} s after opening")
        told("one line down", [seconds(page, "document.querySelector('#list').scrollTop += 210") for _ in range(30)])
        told("to random places", [seconds(page, scroll.format(draw.randrange(high))) for _ in range(30)])
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
        print(f"server {megabytes(server.pid):.0f} MB, JavaScript {heap:.0f} MB, page {renderer():.0f} MB")
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
