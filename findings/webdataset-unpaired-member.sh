#!/usr/bin/env bash
#
# Packages: webdataset 1.0.2, datasets 5.2.0, pillow 13.0.0
# Behavior: The same tar shard read by webdataset and by the "webdataset" loader of datasets. One
#   sample without a caption, or one member .JPG beside .jpg: webdataset reads it (and lowers the
#   case), datasets raises a ValueError for the whole dataset. Members that are sorted by type:
#   webdataset yields twice the samples, each with a half; datasets raises. Names with a dot in
#   the stem (v1.0_1.jpg): both yield one sample v1 for the whole shard, with columns 0_1.jpg,
#   0_2.jpg and so on.
# Expected instead: Both readers of one format return the same samples, a missing field is missing
#   in that sample only, and the extension starts at the last dot.
# Why it matters: Shards written for training with one reader fail, or shrink to one sample each,
#   in the other. The first two cases are usual in scraped pairs, the last in versioned or dated
#   file names. Use stems without dots and check sample counts in both readers.
# Output seen (CPython 3.11, Linux x86-64):
#   webdataset 1.0.2 datasets 5.2.0
#   paired: webdataset 2 samples, datasets 2
#   one without caption: webdataset 2 samples, datasets ValueError
#   one upper case: webdataset 2 samples, datasets ValueError
#   sorted by type: webdataset 4 samples, datasets ValueError
#   dot in the stem: webdataset 1 samples, datasets 1

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        webdataset==1.0.2 datasets==5.2.0 pillow==13.0.0
fi

cat > "$work/probe.py" <<'PY'
import io
import tarfile
import tempfile
from importlib.metadata import version

import datasets
import webdataset
from PIL import Image

datasets.disable_progress_bars()
print("webdataset", version("webdataset"), "datasets", datasets.__version__)
picture = io.BytesIO()
Image.new("RGB", (4, 4)).save(picture, "JPEG")


def write(path, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            data = b"a caption" if name.endswith("txt") else picture.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def read(path, folder):
    first = len(list(webdataset.WebDataset(path, shardshuffle=False)))
    try:
        second = len(datasets.load_dataset("webdataset", data_files=path, split="train", cache_dir=folder))
    except ValueError:
        second = "ValueError"
    return first, second


shards = {
    "paired": (["a.jpg", "a.txt", "b.jpg", "b.txt"], (2, 2)),
    "one without caption": (["a.jpg", "a.txt", "b.jpg"], (2, "ValueError")),
    "one upper case": (["a.JPG", "a.txt", "b.jpg", "b.txt"], (2, "ValueError")),
    "sorted by type": (["a.jpg", "b.jpg", "a.txt", "b.txt"], (4, "ValueError")),
    "dot in the stem": (["v1.0_1.jpg", "v1.0_1.txt", "v1.0_2.jpg", "v1.0_2.txt"], (1, 1)),
}
changed = False
with tempfile.TemporaryDirectory() as folder:
    for number, (name, (members, expected)) in enumerate(shards.items()):
        path = f"{folder}/{number}.tar"
        write(path, members)
        counts = read(path, folder)
        print(f"{name}: webdataset {counts[0]} samples, datasets {counts[1]}")
        changed |= counts != expected
raise SystemExit(changed)
PY
OMP_NUM_THREADS=1 HF_HOME="$work/cache" "$python" "$work/probe.py"
