"""Print the depth in the middle of a picture: ``python depth_with_onnxruntime.py HEAD.onnx PICTURE``.

The file is one of ``clipzoo export --to onnx --heads``.
"""

import sys

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image

head = InferenceSession(sys.argv[1])
size = head.get_inputs()[0].shape[2:0:-1]  # [batch, height, width, 3]
pixels = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize(size, Image.Resampling.BICUBIC))
(depth,) = head.run(["depth"], {"images": pixels[None]})
print(f"{depth[0, size[1] // 2, size[0] // 2]:.4f} m")
