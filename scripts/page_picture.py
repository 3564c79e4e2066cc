"""Extract the README's image from a report: the median case of each task with image, truth, both arms and the expert.

python scripts/page_picture.py runs/demo/page.html docs/demo.png
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TOP = 144, 6, 22
COLUMNS = ("image", "truth", "clip-ft", "clipzoo", "expert")


def median_rows(page: str) -> list[list[Image.Image]]:
    """Return a row of images for each task: of its median cases, the one with the largest truth image."""
    rows = []
    for section in page.split('<h3 class="cap">')[1:]:
        cases = section.split('<div class="pictures">')[1:]
        found = [re.findall(r"data:image/\w+;base64,([^\"]+)", case)[: len(COLUMNS)] for case in cases]
        median = found[len(found) // 3 : 2 * len(found) // 3]
        rows.append(max(median, key=lambda row: len(row[1])))
    return [[Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in row] for row in rows]


def main(page: Path, out: Path) -> None:
    """Write the image to ``out``."""
    rows = median_rows(page.read_text(encoding="utf-8").split('id="pictures"')[1])
    size = len(COLUMNS) * (SIDE + GAP) + GAP, TOP + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for x, name in enumerate(COLUMNS):
        draw.text((GAP + x * (SIDE + GAP) + SIDE // 2, TOP // 2), name, "black", font, "mm")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            resample = Image.Resampling.BICUBIC if x == 0 else Image.Resampling.NEAREST
            sheet.paste(picture.resize((SIDE, SIDE), resample), (GAP + x * (SIDE + GAP), TOP + y * (SIDE + GAP)))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
