#!/usr/bin/env bash
#
# Packages: open_clip_torch 3.3.0, transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, numpy
#   2.4.6
# Behavior: CLIPTokenizer built from the vocabulary and merges that OpenCLIP bundles gives equal
#   tokens for plain captions. OpenCLIP first runs ftfy and unescapes HTML twice; CLIPTokenizer
#   does not. A typographic apostrophe, an HTML entity, a ligature or full-width letters give
#   other, usually more, tokens. No setting of CLIPTokenizer was found that adds the step.
# Expected instead: One vocabulary and one published tokenizer: equal token ids.
# Why it matters: Alt text is full of entities and typographic apostrophes. Text embeddings
#   precomputed in one library and used in the other are off for these captions, and the longer
#   sequences are cut earlier at 77 tokens. Clean captions once, when they are written.
# Output seen (CPython 3.11, Linux x86-64):
#   open_clip 3.3.0 transformers 5.24.0
#   'a photo of a cat': OpenCLIP 7 tokens, transformers 7, equal True
#   "IT'S a 3.5 mm lens": OpenCLIP 10 tokens, transformers 10, equal True
#   'the dog\u2019s bowl': OpenCLIP 6 tokens, transformers 8, equal False
#   'salt &amp; pepper': OpenCLIP 5 tokens, transformers 7, equal False
#   '&quot;open&quot; sign': OpenCLIP 6 tokens, transformers 10, equal False
#   'a \ufb01sh': OpenCLIP 4 tokens, transformers 7, equal False

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        open_clip_torch==3.3.0 transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 \
        numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import gzip

import open_clip
import transformers
from open_clip.tokenizer import SimpleTokenizer, default_bpe

print("open_clip", open_clip.__version__, "transformers", transformers.__version__)
first = SimpleTokenizer()
names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
vocabulary = {names.get(token, token): index for token, index in first.encoder.items()}
lines = gzip.open(default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
second = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(line.split()) for line in lines])
captions = {
    "a photo of a cat": True,
    "IT'S a 3.5 mm lens": True,
    "the dog\u2019s bowl": False,
    "salt &amp; pepper": False,
    "&quot;open&quot; sign": False,
    "a \ufb01sh": False,
}
changed = False
for caption, equal in captions.items():
    a = [token for token in first(caption)[0].tolist() if token]
    b = second(caption)["input_ids"]
    print(f"{ascii(caption)}: OpenCLIP {len(a)} tokens, transformers {len(b)}, equal {a == b}")
    changed |= (a == b) != equal
raise SystemExit(changed)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
