"""Compare a picture with texts: ``python with_transformers.py FOLDER PICTURE TEXT…``, after ``export --to hf``."""

import sys

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder, path, *texts = sys.argv[1:]
model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder, backend="pil")
options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
with torch.no_grad():
    out = model(**processor(images=[Image.open(path).convert("RGB")], text=texts, **options))
for text, score in zip(texts, (out.image_embeds @ out.text_embeds.T)[0].tolist(), strict=True):
    print(f"{score:.6f} {text}")
