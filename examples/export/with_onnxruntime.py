"""Compare a picture with texts: ``python with_onnxruntime.py FOLDER PICTURE TEXT…``, after ``export --to onnx``."""

import sys

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer

folder, path, *texts = sys.argv[1:]
image, text = InferenceSession(f"{folder}/image.onnx"), InferenceSession(f"{folder}/text.onnx")
size = image.get_inputs()[0].shape[2:0:-1]  # [batch, height, width, 3]
pixels = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))
tokens = [one.ids for one in Tokenizer.from_file(f"{folder}/tokenizer.json").encode_batch(texts)]
scores = image.run(None, {"images": pixels[None]})[0] @ text.run(None, {"tokens": np.array(tokens)})[0].T
print("\n".join(f"{score:.6f} {one}" for one, score in zip(texts, scores[0], strict=True)))
