"""Compare the edge scores of BSDS500's protocol with the matching of its authors' code (CSA++).

    pip install scikit-image
    git clone https://github.com/Britefury/py-bsds500
    python scripts/check_bsds.py py-bsds500/src

The folder has the C++ files of the authors, which are compiled with g++ into a temporary folder. Predictions and
annotators are edges of scikit-image's photos at different scales. Prints the largest differences; the exit status is 1
if one exceeds `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from skimage import data
from skimage.color import rgb2gray
from skimage.feature import canny
from skimage.filters import gaussian, sobel
from skimage.transform import resize

from clipzoo.tasks._metrics import contours
from clipzoo.tasks.edges import AnnotatedEdges, Edges
from clipzoo.types import BoolArray

TOLERANCE = 0.01
OUTLIER_COST = 100.0
"""Cost of a pixel without a partner, as a multiple of the largest distance; of the authors' code."""
SOURCES = ("csa", "Exception", "kofn", "match", "Matrix", "Random", "String", "Timer")
WRAPPER = """
#include <cstring>
#include "Matrix.hh"
#include "match.hh"
extern "C" void correspond(
    int rows, int columns, const double* a, const double* b, double reach, double outlier, double* ours, double* theirs
) {
    Matrix first(rows, columns), second(rows, columns), left, right;
    const size_t bytes = sizeof(double) * rows * columns;
    std::memcpy(first.data(), a, bytes);
    std::memcpy(second.data(), b, bytes);
    matchEdgeMaps(first, second, reach, outlier, left, right);
    std::memcpy(ours, left.data(), bytes);
    std::memcpy(theirs, right.data(), bytes);
}
"""
PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")


def compiled(sources: Path, folder: Path) -> ctypes.CDLL:
    """Return the authors' code as a library."""
    (folder / "wrapper.cc").write_text(WRAPPER)
    files = [str(sources / f"{name}.cc") for name in SOURCES]
    library = folder / "matching.so"
    flags = ["-O2", "-w", "-fPIC", "-shared", "-DNOBLAS", f"-I{sources}"]
    subprocess.run(["g++", *flags, *files, str(folder / "wrapper.cc"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class Authors:
    """The authors' matching, with the signature of `contours.matched`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self.larger = library, 0

    def __call__(self, edges: BoolArray, true: BoolArray, reach: float) -> tuple[BoolArray, BoolArray]:
        """Return the matched pixels of both maps [H,W]."""
        maps = [np.asfortranarray(one, np.float64) for one in (edges, true)]
        out = [np.zeros_like(one) for one in maps]
        pointers = [one.ctypes.data_as(ctypes.c_void_p) for one in (*maps, *out)]
        numbers = [ctypes.c_double(value) for value in (reach, OUTLIER_COST * reach)]
        self.library.correspond(*edges.shape, *pointers[:2], *numbers, *pointers[2:])
        found = out[0] > 0, out[1] > 0
        self.larger += int(found[0].sum() > MATCHED(edges, true, reach)[0].sum())
        return found


MATCHED = contours.matched


def example(name: str) -> tuple[Edges, AnnotatedEdges]:
    """Return a prediction and three annotators of a photo at the size of BSDS500's pictures."""
    photo = np.asarray(getattr(data, name)())
    gray = resize(rgb2gray(photo) if photo.ndim == 3 else photo / 255, (321, 481), anti_aliasing=True)
    strength = sobel(gaussian(gray, 1.5))
    values = np.clip(strength / np.quantile(strength, 0.995), 0, 1).astype(np.float32)
    lines = np.stack([np.roll(canny(gray, sigma), shift, 1) for sigma, shift in ((1.5, 0), (2.0, 1), (3.0, -2))])
    valid = np.ones(gray.shape, np.bool_)
    return Edges(values, valid), AnnotatedEdges.of(lines)


def main() -> None:
    """Print the scores of both matchings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder src of py-bsds500")
    parser.add_argument("--thresholds", type=int, default=19)
    args = parser.parse_args()
    metric = contours.BsdsMetric(np.arange(1, args.thresholds + 1) / (args.thresholds + 1))
    with TemporaryDirectory() as folder:
        authors = Authors(compiled(args.sources.absolute(), Path(folder)))
        totals = []
        for match in (MATCHED, authors):
            with patch.object(contours, "matched", match):
                totals.append([metric.statistics(*example(name)) for name in PHOTOS])
    differences = []
    for name, own, other in zip([*PHOTOS, "all"], *([*one, sum(one)] for one in totals), strict=True):
        scores = [metric.compute(one) for one in (own, other)]
        differences += [abs(scores[0][key] - scores[1][key]) for key in scores[0]]
        print(name, *(" ".join(f"{key} {value:.4f}" for key, value in one.items()) for one in scores), sep="  |  ")
    print(f"largest difference: {max(differences):.4f}; larger matchings of the authors' code: {authors.larger}")
    sys.exit(max(differences) > TOLERANCE)


if __name__ == "__main__":
    main()
