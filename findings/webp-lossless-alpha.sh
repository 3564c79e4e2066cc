#!/usr/bin/env bash
#
# Packages: pillow 13.0.0, imagecodecs 2026.3.6, numpy 2.4.6
# Behavior: Image.save(..., "WEBP", lossless=True) keeps alpha but replaces the color under alpha
#   0 by values that compress better. Pillow needs exact=True to keep it. imagecodecs, which wraps
#   the same libwebp, and Pillow's PNG keep all values.
# Expected instead: Lossless means that every stored byte comes back; transparency is just a
#   fourth channel.
# Why it matters: A photo with a foreground mask in its alpha channel (matting and cutout
#   datasets) loses its background for good: a reader that drops alpha trains on the photo in PNG
#   but on rewritten background in "lossless" WebP.
# Output seen (CPython 3.11, Linux x86-64):
#   pillow 13.0.0 libwebp 1.6.0 imagecodecs 2026.3.6
#   Pillow PNG: alpha kept True, opaque colors kept 100%, transparent colors kept 100%
#   Pillow WebP lossless: alpha kept True, opaque colors kept 100%, transparent colors kept 0%
#   Pillow WebP lossless, exact: alpha kept True, opaque colors kept 100%, transparent colors kept 100%
#   imagecodecs WebP lossless: alpha kept True, opaque colors kept 100%, transparent colors kept 100%

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        pillow==13.0.0 imagecodecs==2026.3.6 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import io
import imagecodecs
import numpy as np
from PIL import Image, features

print("pillow", Image.__version__, "libwebp", features.version("webp"), "imagecodecs", imagecodecs.__version__)
photo = np.random.default_rng(0).integers(1, 256, (32, 32, 4), dtype=np.uint8)
photo[..., 3] = 255
photo[:, 16:, 3] = 0


def pillow(kind, **options):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, kind, **options)
    return np.asarray(Image.open(file).convert("RGBA"))


cases = {
    "Pillow PNG": pillow("PNG"),
    "Pillow WebP lossless": pillow("WEBP", lossless=True),
    "Pillow WebP lossless, exact": pillow("WEBP", lossless=True, exact=True),
    "imagecodecs WebP lossless": imagecodecs.webp_decode(imagecodecs.webp_encode(photo, lossless=True)),
}
kept = {}
for name, read in cases.items():
    same = (read[..., :3] == photo[..., :3]).all(-1)
    alpha = bool((read[..., 3] == photo[..., 3]).all())
    kept[name] = (alpha, bool(same[:, :16].all()), bool(same[:, 16:].all()))
    print(f"{name}: alpha kept {alpha}, opaque colors kept {same[:, :16].mean():.0%}, transparent colors kept {same[:, 16:].mean():.0%}")
expected = {name: (True, True, name != "Pillow WebP lossless") for name in cases}
raise SystemExit(kept != expected)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
