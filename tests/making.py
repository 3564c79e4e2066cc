"""Datasets and experts for tests: small, deterministic, hostile where asked."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipzoo.experts import Expert, ExpertCard
from clipzoo.readers.webdataset import write_shard
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray


def peak() -> int:
    """The most KB that this process has held; `getrusage` would count its parent's from before it began."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def image(seed: int, size: tuple[int, int] = (12, 16)) -> ImageArray:
    """Noise, uint8 H×W×3."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(pixels: ImageArray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def samples(count: int, first: int = 0, size: tuple[int, int] = (12, 16)) -> list[tuple[str, Mapping[str, bytes]]]:
    return [
        (f"{i:06d}", {"png": encoded(image(i, size)), "txt": f"picture {i}".encode()})
        for i in range(first, first + count)
    ]


def make_dataset(folder: Path, shards: int = 2, count: int = 6) -> Path:
    """Shards of ``count`` samples each; keys are unique over all of them."""
    for i in range(shards):
        write_shard(folder / f"{i:05d}.tar", samples(count, i * count))
    return folder


def raw_tar(path: Path, members: Sequence[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    """A tar of any members, sound or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, tarfile.TarInfo):
                tar.addfile(what)
            else:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
    return path


class Bright(Expert):
    """Segments what is bright. Fails on every image whose first pixel is in ``poison``."""

    def __init__(self, name: str = "bright", poison: Sequence[bytes] = (), batch_size: int = 4) -> None:
        self.card = ExpertCard(f"test:{name}", "segmentation", Convention(("dark", "bright")), weights_sha256="00")
        self.poison, self.batch_size = set(poison), batch_size
        self.calls: list[list[tuple[int, ...]]] = []
        self.loaded = 0

    def load(self, device: str = "cpu") -> None:
        self.loaded += 1

    def predict(self, images: Sequence[ImageArray]) -> list[Segmentation]:
        self.calls.append([image.shape for image in images])
        if any(image[0, 0].tobytes() in self.poison for image in images):
            raise RuntimeError("out of luck (on purpose)")
        return [self.one(image) for image in images]

    @staticmethod
    def one(image: ImageArray) -> Segmentation:
        gray = image.mean(2)
        return Segmentation((gray > 127).astype(np.uint16), gray > 10, 0.75)


class Near(Expert):
    """Depth, larger where it is dark."""

    batch_size = 3

    def __init__(self) -> None:
        self.card = ExpertCard("test:near", "depth", Convention(kind="metric", along="z"), weights_sha256="01")

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Depth]:
        maps = [(300 - image.mean(2)).astype(np.float32) / 100 for image in images]
        return [Depth(values, np.ones(values.shape, bool), "metric", "z") for values in maps]
