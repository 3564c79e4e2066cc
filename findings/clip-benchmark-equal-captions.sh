#!/usr/bin/env bash
#
# Packages: clip-benchmark 1.6.2, torch 2.14.1, torchvision 0.29.1, open_clip_torch 3.3.0,
#   transformers 5.24.0, numpy 2.4.6
# Behavior: Retrieval counts a text-image pair as right by its position in the dataset. Two images
#   with the same caption have equal scores, and the tie is decided by topk: a model that
#   retrieves perfectly gets less than 1 at recall@1 in both directions. The zero-shot accuracy()
#   calls float() on a one-element array, which NumPy 2.4 no longer converts.
# Expected instead: Images whose caption is equal to the query count as right, and the released
#   version runs on a NumPy that its requirements do not exclude.
# Why it matters: On class-name, alt-text or template captions the ceiling of recall lies far
#   below 1 and depends on the share of duplicates, so figures of two sets, or before and after
#   deduplication, cannot be compared. Measure on unique captions, and pin NumPy below 2.4.
# Output seen (CPython 3.11, Linux x86-64):
#   clip-benchmark 1.6.2 numpy 2.4.6 torch 2.14.1+cu130
#   perfect model, unique captions: image and text recall@1 (1.0, 1.0)
#   perfect model, each caption twice: image and text recall@1 (0.5, 0.5)
#   accuracy() raises TypeError: only 0-dimensional arrays can be converted to Python scalars

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        clip-benchmark==1.6.2 torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 \
        transformers==5.24.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
from importlib.metadata import version

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

print("clip-benchmark", version("clip-benchmark"), "numpy", np.__version__, "torch", torch.__version__)


class Perfect:
    def encode_image(self, images):
        return torch.eye(4)[images]

    encode_text = encode_image


def recall(captions):
    words = sorted(set(captions))
    index = torch.tensor([words.index(caption) for caption in captions])
    batches = [(index, [[caption] for caption in captions])]
    tokenizer = lambda texts: torch.tensor([words.index(text) for text in texts])
    result = zeroshot_retrieval.evaluate(Perfect(), batches, tokenizer, "cpu", amp=False, recall_k_list=[1])
    return result["image_retrieval_recall@1"], result["text_retrieval_recall@1"]


unique = recall(["a cat", "a dog", "a tree", "a house"])
repeated = recall(["a cat", "a cat", "a dog", "a dog"])
print(f"perfect model, unique captions: image and text recall@1 {unique}")
print(f"perfect model, each caption twice: image and text recall@1 {repeated}")
try:
    zeroshot_classification.accuracy(torch.eye(4), torch.arange(4), topk=(1,))
    raised = False
except TypeError as error:
    raised = True
    print("accuracy() raises TypeError:", error)
raise SystemExit(not (unique == (1, 1) and max(repeated) < 1 and raised))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
