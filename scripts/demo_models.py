"""Train the models of the demo: the initial CLIP (tiny, trained on captions only) and five tiny experts."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from clipzoo.demo.captions import TEMPLATES
from clipzoo.demo.expert import CHANNELS, OUTPUT, TinyUNet, convention_of, packed, unpacked
from clipzoo.demo.meshes import ROOM, classes, meshes, names
from clipzoo.evaluation.measure import rows
from clipzoo.tasks import get as get_task
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import View

CHUNK = 500


def load(folder: Path, keys: tuple[str, ...], limit: int | None = None) -> dict[str, Any]:
    """The arrays ``keys`` of a rendered split, whole."""
    found: dict[str, list[Any]] = {key: [] for key in keys}
    for path in sorted(folder.glob("*.npz"))[: limit and math.ceil(limit / CHUNK)]:
        with np.load(path) as chunk:
            for key in keys:
                found[key].append(chunk[key])
    return {key: np.concatenate(parts)[:limit] for key, parts in found.items()}


# ------------------------------------------------------------------ the start: a tiny CLIP

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 2, 1], "width": 24, "head_width": 64},
    "text_cfg": {
        "context_length": 24, "vocab_size": 0, "hf_tokenizer_name": "tokenizer",
        "width": 128, "heads": 4, "layers": 2, "pad_id": 0,
    },
}  # fmt: skip
PREPROCESS = {
    "size": [96, 96], "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic", "resize_mode": "squash",
}  # fmt: skip


def build_tokenizer(captions: list[str], folder: Path) -> int:
    """Train a word-piece tokenizer that can spell any ASCII word; returns its vocabulary size.

    The end token has the highest id, since CLIP pools the text where the id is highest.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1000, special_tokens=["[PAD]", "[UNK]", "[BOS]"],
        initial_alphabet=alphabet, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([*captions, *alphabet, " ".join(alphabet), "".join(alphabet)], trainer)
    tokenizer.add_special_tokens(["[EOS]"])
    end, start = tokenizer.token_to_id("[EOS]"), tokenizer.token_to_id("[BOS]")
    assert end == tokenizer.get_vocab_size() - 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", start), ("[EOS]", end)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[BOS]", eos_token="[EOS]",
        unk_token="[UNK]", pad_token="[PAD]", model_max_length=24,
    ).save_pretrained(folder)  # fmt: skip
    settings = folder / "tokenizer_config.json"  # a class name that every version of transformers knows
    found = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(found, indent=1) + "\n")
    return end + 1


def augment(images: torch.Tensor, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """Random resized crop (area at least ``smallest``), flip and mild color jitter of Bx3x96x96 in [0,1]."""

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    count = len(images)
    side = (smallest + (1 - smallest) * chance(count)).sqrt()
    stretch = torch.exp((chance(count) - 0.5) * 0.2)
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = width * torch.where(chance(count) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * chance(count) - 1) * (1 - width)
    theta[:, 1, 2] = (2 * chance(count) - 1) * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    viewed = F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")
    gain = 1 + 0.3 * (chance(count, 1, 1, 1) - 0.5) + 0.15 * (chance(count, 3, 1, 1) - 0.5)
    mean = viewed.mean((1, 2, 3), keepdim=True)
    contrast = 1 + 0.4 * (chance(count, 1, 1, 1) - 0.5)
    return (((viewed - mean) * contrast + mean) * gain).clamp(0, 1)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 NHWC or float NCHW in [0,1] -> what the tower takes."""
    if images.dtype == torch.uint8:
        images = images.permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.25


def zero_shot(model: Any, tokenizer: Any, images: torch.Tensor, truth: torch.Tensor) -> float:
    """Top-1 over ``names()`` with the ensemble of ``TEMPLATES``."""
    model.eval()
    with torch.no_grad():
        rows = [
            F.normalize(
                F.normalize(model.encode_text(tokenizer([t.format(n) for t in TEMPLATES])), dim=-1).mean(0), dim=0
            )
            for n in names()
        ]
        seen = torch.cat([model.encode_image(normalize(part)) for part in images.split(250)])
    model.train()
    return float((seen @ torch.stack(rows).T).argmax(1).eq(truth).float().mean())


def compact(value: torch.Tensor) -> torch.Tensor:
    """As it is stored: floats in half precision."""
    return (value.half() if value.is_floating_point() else value).contiguous()


def widened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As it is used: floats in single precision."""
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def cosine(step: int, steps: int, warm: int = 100) -> float:
    """Share of the full learning rate at ``step``."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def write_world(target: Path) -> None:
    """``rooms.json``: names, prompt templates, segmentation classes and held-out meshes, for anyone to read."""
    world = {
        "names": names(),
        "templates": TEMPLATES,
        "classes": classes(),
        "held_out": [{"mesh": m.id, "name": m.name} for m in meshes() if m.held_out],
    }
    (target / "rooms.json").write_text(json.dumps(world, indent=1) + "\n")


def train_clip(arguments: argparse.Namespace) -> None:
    folder = arguments.target / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "open_clip_model.safetensors"
    write_world(arguments.target)
    data = load(arguments.out / "pretraining", ("images", "captions"))
    held = load(arguments.out / "validation", ("images", "names"))
    MODEL["text_cfg"]["vocab_size"] = build_tokenizer([str(c) for c in data["captions"]], folder)  # type: ignore[index]
    settings = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(int(arguments.resume))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model = open_clip.model.CLIP(**MODEL)
    if arguments.resume:
        model.load_state_dict(widened(load_file(weights)))
    model.visual.to(memory_format=torch.channels_last)
    images, tokens = torch.from_numpy(data["images"]), tokenizer([str(c) for c in data["captions"]])
    val_images, val_names = torch.from_numpy(held["images"]), torch.from_numpy(held["names"]).long()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, betas=(0.9, 0.98))
    loss_of = open_clip.ClipLoss()
    began, order = time.time(), torch.empty(0, dtype=torch.long)
    for step in range(arguments.until or arguments.steps):
        if len(order) < arguments.batch:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * cosine(step, arguments.steps)
        batch = images[chosen].permute(0, 3, 1, 2).float() / 255
        view = normalize(augment(batch, 0.7, generator)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            image, text, scale = model(view, tokens[chosen])
        loss = loss_of(image.float(), text.float(), scale.float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if (step + 1) % 25 == 0:
            print(
                step + 1,
                f"{time.time() - began:.0f} s",
                f"loss {loss.item():.3f}",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == arguments.steps:
            print("zero-shot", zero_shot(model, tokenizer, val_images, val_names), flush=True)
            half = {k: compact(v) for k, v in model.state_dict().items()}
            save_file(half, str(weights))


# ------------------------------------------------------------------ five tiny experts

KEYS = {"detection": ("boxes", "box_classes")}
"""Task -> the arrays of a rendered split that are its truth; by default the one of its name."""
NOT_OBJECTS = len(ROOM)


def truth_of(task: str, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the loss compares with, pictures first: a target of the library's, or the plain map as ``map``."""
    if task == "detection":
        labels = [_boxes(*one) for one in zip(data["boxes"], data["box_classes"], strict=True)]
        return get_task(task).collate(labels, (48, 48))
    if task == "edges":
        return {"values": torch.from_numpy(data[task]), "valid": torch.ones(data[task].shape, dtype=torch.bool)}
    return {"map": torch.from_numpy(data[task])}


def _boxes(boxes: np.ndarray, kinds: np.ndarray) -> Detection:
    there = kinds >= 0
    count = int(there.sum())
    ids = (kinds[there] - NOT_OBJECTS).astype(np.uint16)
    return Detection((96, 96), boxes[there], ids, np.ones(count, np.float32), np.zeros(count, np.bool_))


def mirrored(task: str, truth: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The truth of a mirrored batch: normals change the sign of x, distances to the sides their places."""
    seen = {name: value.flip(-1) for name, value in truth.items()}
    if task == "normals":
        seen["map"] = seen["map"] * seen["map"].new_tensor([-1.0, 1.0, 1.0])[:, None, None]
    if task == "detection":
        seen["distances"] = seen["distances"][:, [2, 1, 0, 3]]
    return seen


def class_weights(target: torch.Tensor, count: int) -> torch.Tensor:
    """Rare classes count more: one over the root of the frequency, 1 on average over pixels."""
    share = torch.bincount(target[:, ::4, ::4].flatten().long(), minlength=count).float()
    share = share / share.sum()
    weights = share.clamp(min=1e-4).rsqrt()
    return weights / (weights * share).sum()


def expert_loss(
    task: str, raw: torch.Tensor, truth: dict[str, torch.Tensor], weights: torch.Tensor | None
) -> torch.Tensor:
    """Mean loss of a raw prediction: weighted cross-entropy, L1 of log depth, one minus cosine; else the task's own."""
    if task == "segmentation":
        return F.cross_entropy(raw, truth["map"].long(), weights, label_smoothing=0.02)
    if task == "depth":
        return (raw[:, 0] - truth["map"].float().log()).abs().mean()
    if task == "normals":
        return 1 - F.cosine_similarity(raw, truth["map"].float(), dim=1).mean()
    ready = {name: value.float() if name == "values" else value for name, value in truth.items()}
    return get_task(task).loss(raw, ready, convention_of(task))


def score(task: str, model: torch.nn.Module, data: dict[str, Any], device: str) -> tuple[dict[str, float], float]:
    """The task's measures on rendered pictures with truth, and the milliseconds that one takes."""
    model.eval()
    convention, began, guesses = convention_of(task), time.time(), []
    with torch.no_grad():
        for some in np.array_split(data["images"], max(1, len(data["images"]) // 64)):
            images = torch.from_numpy(some).to(device).permute(0, 3, 1, 2).float() / 255
            guesses += get_task(task).predict(OUTPUT[task](model(images)), convention)
    took = (time.time() - began) / len(guesses) * 1e3
    model.train()
    known = np.ones((96, 96), np.bool_)
    make: dict[str, Any] = {
        "segmentation": lambda i: Segmentation(data[task][i].astype(np.uint16), known),
        "depth": lambda i: Depth(data[task][i].astype(np.float32), known, "metric", "z"),
        "normals": lambda i: Normals(data[task][i].astype(np.float32), known),
        "edges": lambda i: Edges(data[task][i].astype(np.float32), known),
        "detection": lambda i: _boxes(data["boxes"][i], data["box_classes"][i]),
    }
    whole = View.whole((96, 96))
    guesses = [get_task(task).crop_resize(guess, whole) for guess in guesses]
    metric = get_task(task).metric(convention)
    return metric.of(rows(metric, guesses, [make[task](i) for i in range(len(guesses))])), took


def flip_and_jitter(
    task: str, images: torch.Tensor, truth: dict[str, torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mirror a batch, change its colors, shade parts of it softly and sharply.

    The experts' pictures are flat, without shadows; the shades stand in for those of the others.
    """
    device = images.device

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def blotches(cells: int) -> torch.Tensor:
        field = torch.randn(len(images), 1, cells, cells, generator=generator, device=device)
        return F.interpolate(field, images.shape[-2:], mode="bicubic")

    if chance() < 0.5:
        images, truth = images.flip(-1), mirrored(task, truth)
    gain = 1 + 0.5 * (chance(len(images), 1, 1, 1) - 0.5) + 0.3 * (chance(len(images), 3, 1, 1) - 0.5)
    soft = torch.exp(0.2 * blotches(4))
    shadow = 1 - 0.6 * chance(len(images), 1, 1, 1) * torch.sigmoid(20 * (blotches(5) - 0.5))
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = 1 + 0.6 * (chance(len(images), 1, 1, 1) - 0.5)
    noise = 0.02 * torch.randn(images.shape, generator=generator, device=device)
    return ((images - mean) * contrast + mean).mul(gain * soft * shadow).add(noise).clamp(0, 1), truth


def train_experts(arguments: argparse.Namespace) -> None:
    folder, device = arguments.target / "experts", arguments.device
    folder.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        keys = ("images", *KEYS.get(task, (task,)))
        held, data = (load(arguments.out / split, keys) for split in ("validation", "experts"))
        images = torch.from_numpy(data["images"]).to(device)
        truth = {name: value.to(device) for name, value in truth_of(task, data).items()}
        torch.manual_seed(0)
        generator = torch.Generator(device).manual_seed(int(arguments.resume))
        channels = CHANNELS[task](convention_of(task))
        weights = class_weights(truth["map"], channels) if task == "segmentation" else None
        model = TinyUNet(channels)
        path = folder / f"{task}.safetensors"
        if arguments.resume:
            model.load_state_dict(unpacked(load_file(path)))
        model.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.02)
        began, order = time.time(), torch.empty(0, dtype=torch.long)
        for step in range(arguments.steps):
            if len(order) < 64:
                order = torch.randperm(len(images))
            chosen, order = order[:64].to(device), order[64:]
            for group in optimizer.param_groups:
                group["lr"] = arguments.rate * cosine(step, arguments.steps)
            batch = images[chosen].permute(0, 3, 1, 2).float() / 255
            batch, right = flip_and_jitter(task, batch, {k: v[chosen] for k, v in truth.items()}, generator)
            with torch.autocast(device, torch.bfloat16, enabled=arguments.bf16):
                raw = model(batch.contiguous(memory_format=torch.channels_last))
            loss = expert_loss(task, OUTPUT[task](raw.float()), right, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 100 == 0:
                print(task, step + 1, f"{time.time() - began:.0f} s", f"loss {loss.item():.3f}", flush=True)
            if (step + 1) % 1000 == 0 or step + 1 == arguments.steps:
                save_file(packed(model.state_dict()), str(path))
                measured, took = score(task, model, held, device)
                print(task, "validation", measured, f"{took:.1f} ms a picture", flush=True)
