"""Data that many tests share: a tiny dataset, its labels, a tiny CLIP. All made here, none downloaded."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from clipzoo.experts.base import ExpertCard
from clipzoo.files import _copies
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Column, ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.segmentation import Segmentation
from serving import BUCKET, S3, s3

WORDS = ("red", "green", "blue", "dark", "bright", "square")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_copies_survive() -> Iterator[None]:
    """Remote files that the process keeps to its end are kept to the end of the test: others reuse the addresses."""
    yield
    while _copies._copies:
        _copies._copies.popitem()[1].unlink(missing_ok=True)


def picture(rng: np.random.Generator, size: int = 32) -> tuple[np.ndarray, str, np.ndarray]:
    """A square of one color on another: uint8 image, caption, bool mask of the square."""
    color = int(rng.integers(3))
    image = np.full((size, size, 3), 40, np.uint8)
    top, left = rng.integers(0, size // 2, 2)
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + size // 2, left : left + size // 2] = True
    image[mask, color] = 220
    return image, f"{WORDS[color]} square", mask


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 16 squares with captions."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    for shard in range(3):
        samples = []
        for i in range(16):
            image, caption, _ = picture(rng)
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            samples.append((f"{shard}{i:03d}", {"png": file.getvalue(), "txt": caption.encode()}))
        write_shard(root / f"{shard:05d}.tar", samples)
    return root


@pytest.fixture(scope="session")
def labels(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation and depth columns of `dataset`; every fifth sample has no depth."""
    root = tmp_path_factory.mktemp("labels")
    reader = open_dataset(str(dataset))
    spaces = {
        "segmentation": Convention(classes=("background", "square")),
        "depth": Convention(kind="metric", along="z"),
    }
    columns: dict[str, Column] = {
        task: Store(root).create(ExpertCard("test:truth", task, convention), fingerprint(reader))
        for task, convention in spaces.items()
    }
    rng = np.random.default_rng(0)
    for shard in reader.shards:
        with ColumnWriter(columns["segmentation"], shard) as masks, ColumnWriter(columns["depth"], shard) as depths:
            for i, entry in enumerate(reader.index(shard)):
                _, _, mask = picture(rng)
                known = np.ones_like(mask)
                masks.add(entry.key, Segmentation(mask.astype(np.uint16), known))
                if i % 5 == 4:
                    depths.fail(entry.key, "left out by the test")
                else:
                    depths.add(entry.key, Depth(np.where(mask, 1.0, 3.0).astype(np.float32), known, "metric", "z"))
    for column in columns.values():
        column.finish()
    return root


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random OpenCLIP ViT of 32 px with a word tokenizer, as ``local-dir:``."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "<unk>", "<s>", *WORDS, "a", "photo", "of", "</s>"))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": 8, "vocab_size": len(vocabulary), "width": 32, "heads": 2, "layers": 1,
            "hf_tokenizer_name": "words", "tokenizer_kwargs": {},
        },
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


# Places behind a network ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def store_server() -> Iterator[S3]:
    for name in ("s3fs", "moto", "flask", "flask_cors", "boto3"):
        pytest.importorskip(name)
    with s3(BUCKET) as server:
        yield server


@pytest.fixture
def in_s3(store_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The environment of a user of the server."""
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield store_server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place in a store."""
    if request.param == "s3":
        request.getfixturevalue("in_s3")
        yield f"s3://{BUCKET}/{tmp_path.name}"
    else:
        yield "memory://here"
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://here"
    fsspec.filesystem("memory").store.clear()
