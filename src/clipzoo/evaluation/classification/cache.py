"""Embeddings of images on disk: float16, in parts of `PART` images. A killed encoding resumes at its next part."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipzoo import files
from clipzoo.benchmarks import Split
from clipzoo.evaluation.base import Encoder, embedding_batches, preprocessing_of, weights_of

PART = 8192
"""Images of a part."""
HELD = 8
"""Parts that stay in memory, since each step of a fit reads all of them."""

Chosen = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Rows [N] -> True for those that are used."""


@dataclass(frozen=True)
class Features:
    """Embeddings of images with their classes.

    Attributes:
        paths: the parts in order.
        targets: class index of each image.
        device: of the tensors.
        chosen: says which rows are used; None for all.
    """

    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    device: torch.device
    chosen: Chosen | None = None

    def __len__(self) -> int:
        return len(self.targets) if self.chosen is None else int(self.chosen(np.arange(len(self.targets))).sum())

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the parts: features float32 [n,D] and class indices int64 [n]."""
        for number, path in enumerate(self.paths):
            first = number * PART
            values, targets = _loaded(path, path.stat().st_mtime_ns), torch.tensor(self.targets[first : first + PART])
            if self.chosen is not None:
                mask = self.chosen(np.arange(first, first + len(targets)))
                values, targets = values[mask], targets[torch.from_numpy(mask)]
            yield torch.from_numpy(values).to(self.device).float(), targets.to(self.device)

    def where(self, chosen: Chosen) -> Features:
        """Return the images for whose rows ``chosen`` is true."""
        return Features(self.paths, self.targets, self.device, chosen)


def cached(
    model: Encoder, split: Split, folder: Path, step: Callable[[str, int, int], None] = lambda name, done, total: None
) -> Features:
    """Return the features of a split, computed where they are not on disk for these images and weights.

    Raises:
        CheckpointError: an embedding is not finite.
    """
    identity: dict[str, object] = {
        "images": split.identity, "size": [*split.size], "crop": split.crop, "weights": weights_of(model),
        "preprocessing": preprocessing_of(model),
    }  # fmt: skip
    if split.kept != 1:
        identity["kept"] = split.kept
    record = json.dumps(identity, indent=1).encode()
    if not (folder / "identity.json").is_file() or (folder / "identity.json").read_bytes() != record:
        for path in sorted(folder.glob("*.npy")):
            path.unlink()
        files.write(folder / "identity.json", record)
    paths = tuple(folder / f"{start // PART:05d}.npy" for start in range(0, len(split), PART))
    for number, path in enumerate(paths):
        if path.is_file():
            continue
        rows = range(number * PART, min((number + 1) * PART, len(split)))
        parts = []
        for batch in embedding_batches(model, split.select(rows)):
            parts.append(batch.half())
            step("encoding", rows[0] + sum(map(len, parts)), len(split))
        contents = io.BytesIO()
        np.save(contents, torch.cat(parts).numpy())
        files.write(path, contents.getvalue(), exclusive=True)
    weights = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return Features(paths, split.targets, torch.device("cpu") if weights is None else weights.device)


@lru_cache(maxsize=HELD)
def _loaded(path: Path, changed: int) -> NDArray[np.float16]:
    """Return a part; ``changed`` is the time of its last change."""
    with path.open("rb") as file:
        part: NDArray[np.float16] = np.load(file, allow_pickle=False)
    return part
