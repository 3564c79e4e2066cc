#!/usr/bin/env bash
#
# Package: pillow 13.0.0
# Behavior: Image.open turns the size of a TIFF by its orientation tag before it decodes anything, but
#   getexif() still returns the orientation until load(). JPEG, PNG and WebP keep the stored size until
#   ImageOps.exif_transpose is called. Pillow 10.1 kept it for TIFF, too, until load(), which turned it.
# Expected instead: Size and orientation describe one state in every format: both before the turn, or
#   both after it.
# Why it matters: The size of a displayed picture is usually read from the header alone: swap the sides
#   if the orientation is 5 to 8. In a TIFF this exchanges height and width a second time, so boxes and
#   masks that are scaled to this size are stretched along the wrong axis, without an error.
# Output seen (CPython 3.11, Linux x86-64):
#   TIFF: opened (200, 400) orientation 6, swapped (400, 200), decoded (200, 400)
#   JPEG: opened (400, 200) orientation 6, swapped (200, 400), decoded (200, 400)
#   PNG: opened (400, 200) orientation 6, swapped (200, 400), decoded (200, 400)
#   WEBP: opened (400, 200) orientation 6, swapped (200, 400), decoded (200, 400)

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir pillow==13.0.0
fi

cat > "$work/probe.py" <<'PY'
import io

from PIL import Image, ImageOps

ORIENTATION = 0x0112
right = {}
for kind in ("TIFF", "JPEG", "PNG", "WEBP"):
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = 6
    Image.new("RGB", (400, 200)).save(file, kind, exif=exif)
    image = Image.open(file)
    size, orientation = image.size, image.getexif()[ORIENTATION]
    swapped = size[::-1] if orientation in (5, 6, 7, 8) else size
    decoded = ImageOps.exif_transpose(image).size
    print(f"{kind}: opened {size} orientation {orientation}, swapped {swapped}, decoded {decoded}")
    right[kind] = swapped == decoded
raise SystemExit(right != {"TIFF": False, "JPEG": True, "PNG": True, "WEBP": True})
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
