"""Embed a picture: ``python with_timm.py FOLDER PICTURE`` after ``clipzoo export --to timm``."""

import sys

import timm
import torch
from PIL import Image

folder, path = sys.argv[1:]
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    embedding = torch.nn.functional.normalize(model(transform(Image.open(path).convert("RGB"))[None]))
print(" ".join(f"{value:.6f}" for value in embedding[0].tolist()))
