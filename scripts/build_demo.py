"""Build the embedded demo from nothing but ``src/clipzoo/demo/meshes.npz`` (dev time, two CPU cores).

    S=scratch                                                             # any folder
    python scripts/build_demo.py render --split pretraining --count 30000 --out $S    # 6 min
    python scripts/build_demo.py render --split experts     --count 7000  --out $S    # 2 min
    python scripts/build_demo.py render --split probe       --count 2000  --out $S    # and validation
    python scripts/build_demo.py clip    --out $S     # the start, 20 min
    python scripts/build_demo.py experts --out $S     # three tiny experts, 20 min
    python scripts/build_demo.py check   --out $S     # validation figures, 3 min

Picture ``i`` of a split is drawn from ``default_rng([split, i])``; training uses seed 0 throughout.
Rendering is resumable: a chunk that is there is left alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from multiprocessing import Pool
from pathlib import Path
from typing import TYPE_CHECKING, Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    if "render" in sys.argv:
        os.environ[variable] = "1"  # one process a core is faster than two threads each

if TYPE_CHECKING:
    import torch

import numpy as np  # noqa: E402

from clipzoo.demo.captions import TEMPLATES  # noqa: E402
from clipzoo.demo.meshes import classes, meshes, names  # noqa: E402
from clipzoo.demo.rooms import SPLITS, render  # noqa: E402

DEMO = Path(__file__).parents[1] / "src/clipzoo/demo"
CHUNK = 500
WITH_TRUTH = ("experts", "probe", "validation", "test", "heldout")
KEEP_TO_LOOK_AT = 200


def draw_chunk(split: str, first: int, count: int, path: Path) -> None:
    """Render ``count`` pictures from ``first`` on and store them in one npz."""
    scenes = [render(i, split) for i in range(first, first + count)]
    kept = scenes if split in WITH_TRUTH else scenes[:KEEP_TO_LOOK_AT] if first == 0 else []
    arrays = {
        "images": np.stack([s.image for s in scenes]),
        "captions": np.array([s.caption for s in scenes]),
        "names": np.array([names().index(s.name) for s in scenes], np.int16),
        "fields_of_view": np.array([s.field_of_view for s in scenes], np.float32),
    }
    if kept:
        arrays["depth"] = np.stack([s.depth for s in kept]).astype(np.float16)
        arrays["normals"] = np.stack([s.normals for s in kept]).astype(np.float16)
        arrays["segmentation"] = np.stack([s.segmentation for s in kept])
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, **arrays)
    path.with_suffix(".part").rename(path)


def run_render(arguments: argparse.Namespace) -> None:
    folder = arguments.out / arguments.split
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for first in range(0, arguments.count, CHUNK):
        path = folder / f"{first:06d}.npz"
        if not path.exists():
            jobs.append((arguments.split, first, min(CHUNK, arguments.count - first), path))
    with Pool(arguments.workers) as pool:
        pool.starmap(draw_chunk, jobs, chunksize=1)
    print(json.dumps({"split": arguments.split, "count": arguments.count, "drawn": len(jobs)}))


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
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

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
    """Random resized crop (area at least ``smallest``), flip and mild colour jitter of Bx3x96x96 in [0,1]."""
    import torch
    from torch.nn import functional as F

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

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


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 NHWC or float NCHW in [0,1] -> what the tower takes."""
    import torch

    if images.dtype == torch.uint8:
        images = images.permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.25


def zero_shot(model: Any, tokenizer: Any, images: torch.Tensor, truth: torch.Tensor) -> float:
    """Top-1 over ``names()`` with the ensemble of ``TEMPLATES``."""
    import torch
    from torch.nn import functional as F

    model.eval()
    with torch.no_grad():
        rows = [
            F.normalize(
                F.normalize(model.encode_text(tokenizer([t.format(n) for t in TEMPLATES])), dim=-1).mean(0), dim=0
            )
            for n in names()
        ]
        seen = torch.cat([model.encode_image(normalise(part)) for part in images.split(250)])
    model.train()
    return float((seen @ torch.stack(rows).T).argmax(1).eq(truth).float().mean())


def compact(value: torch.Tensor) -> torch.Tensor:
    """As it is stored: floats in half precision."""
    return (value.half() if value.is_floating_point() else value).contiguous()


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


def run_clip(arguments: argparse.Namespace) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = arguments.target / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    write_world(arguments.target)
    data = load(arguments.out / "pretraining", ("images", "captions"))
    held = load(arguments.out / "validation", ("images", "names"))
    MODEL["text_cfg"]["vocab_size"] = build_tokenizer([str(c) for c in data["captions"]], folder)  # type: ignore[index]
    settings = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model = open_clip.model.CLIP(**MODEL)
    model.visual.to(memory_format=torch.channels_last)
    images, tokens = torch.from_numpy(data["images"]), tokenizer([str(c) for c in data["captions"]])
    val_images, val_names = torch.from_numpy(held["images"]), torch.from_numpy(held["names"]).long()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, betas=(0.9, 0.98))
    loss_of = open_clip.ClipLoss()
    began, order = time.time(), torch.empty(0, dtype=torch.long)
    for step in range(arguments.steps):
        if len(order) < arguments.batch:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * cosine(step, arguments.steps)
        batch = images[chosen].permute(0, 3, 1, 2).float() / 255
        view = normalise(augment(batch, 0.7, generator)).contiguous(memory_format=torch.channels_last)
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
            save_file(half, str(folder / "open_clip_model.safetensors"))


# ------------------------------------------------------------------ three tiny experts

CHANNELS = {"segmentation": len(classes()), "depth": 1, "normals": 3}


def expert_loss(task: str, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean loss of a raw prediction: cross-entropy, L1 of log depth, one minus cosine."""
    from torch.nn import functional as F

    if task == "segmentation":
        return F.cross_entropy(raw, target.long(), label_smoothing=0.02)
    if task == "depth":
        return (raw[:, 0] - target.float().log()).abs().mean()
    return 1 - F.cosine_similarity(raw, target.float(), dim=1).mean()


def score(task: str, guess: np.ndarray, truth: np.ndarray) -> float:
    """mIoU over all pixels of class ids, delta1 of metres, or mean angle in degrees of unit vectors (NCHW)."""
    if task == "segmentation":
        count = CHANNELS[task]
        table = np.bincount(truth.ravel().astype(np.int64) * count + guess.ravel(), minlength=count**2)
        table = table.reshape(count, count)
        union = table.sum(0) + table.sum(1) - np.diag(table)
        seen = table.sum(1) > 0
        return float((np.diag(table)[seen] / union[seen]).mean())
    if task == "depth":
        return float((np.abs(np.log(guess) - np.log(truth.astype(np.float32))) < math.log(1.25)).mean())
    cosine_of = (guess * truth.astype(np.float32)).sum(1) / np.maximum(np.linalg.norm(guess, axis=1), 1e-6)
    return float(np.degrees(np.arccos(np.clip(cosine_of, -1, 1))).mean())


def guess_of(task: str, raw: torch.Tensor) -> np.ndarray:
    """Raw output -> class ids, metres or unit vectors."""
    from torch.nn import functional as F

    if task == "segmentation":
        return raw.argmax(1).numpy()
    return raw[:, 0].exp().numpy() if task == "depth" else F.normalize(raw, dim=1).numpy()


def expert_guesses(task: str, model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """What an expert says of uint8 NHWC pictures."""
    import torch

    model.eval()
    with torch.no_grad():
        parts = [
            torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255
            for p in np.array_split(images, max(1, len(images) // 100))
        ]
        return np.concatenate([guess_of(task, model(part)) for part in parts])


def flip_and_jitter(
    task: str, images: torch.Tensor, target: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror a batch (normals change the sign of x) and change its colours."""
    import torch

    if torch.rand((), generator=generator) < 0.5:
        images, target = images.flip(-1), target.flip(-1)
        if task == "normals":
            target = target * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    gain = 1 + 0.5 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    gain = gain + 0.3 * (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = 1 + 0.6 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    noise = 0.02 * torch.randn(images.shape, generator=generator)
    return ((images - mean) * contrast + mean).mul(gain).add(noise).clamp(0, 1), target


def run_experts(arguments: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import save_file

    from clipzoo.experts.demo import TinyUNet

    folder = arguments.target / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    held = load(arguments.out / "validation", ("images", *CHANNELS))
    for task in arguments.tasks:
        data = load(arguments.out / "experts", ("images", task))
        images, target = torch.from_numpy(data["images"]), torch.from_numpy(data[task])
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model = TinyUNet(CHANNELS[task])
        optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.02)
        began, order = time.time(), torch.empty(0, dtype=torch.long)
        for step in range(arguments.steps):
            if len(order) < 64:
                order = torch.randperm(len(images), generator=generator)
            chosen, order = order[:64], order[64:]
            for group in optimizer.param_groups:
                group["lr"] = arguments.rate * cosine(step, arguments.steps)
            batch = images[chosen].permute(0, 3, 1, 2).float() / 255
            batch, truth = flip_and_jitter(task, batch, target[chosen], generator)
            loss = expert_loss(task, model(batch), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 100 == 0:
                print(task, step + 1, f"{time.time() - began:.0f} s", f"loss {loss.item():.3f}", flush=True)
        half = {k: compact(v) for k, v in model.state_dict().items()}
        save_file(half, str(folder / f"{task}.safetensors"))
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
        began = time.time()
        guess = expert_guesses(task, model, held["images"])
        speed = (time.time() - began) / len(guess) * 1e3
        print(task, "validation", score(task, guess, held[task]), f"{speed:.1f} ms a picture", flush=True)


# ------------------------------------------------------------------ figures on validation


def targets(task: str, truth: np.ndarray, block: int = 12) -> np.ndarray:
    """Truth of N pictures -> (N * tokens) x (outputs * pixels of a block), for a ridge."""
    if task == "segmentation":
        planes = np.moveaxis(np.eye(CHANNELS[task], dtype=np.float32)[truth], -1, 1)
    else:
        planes = np.log(truth.astype(np.float32))[:, None] if task == "depth" else truth.astype(np.float32)
    count, channels, size, _ = planes.shape
    side = size // block
    cut = planes.reshape(count, channels, side, block, side, block).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(count * side * side, -1)


def from_blocks(task: str, rows: np.ndarray, count: int, block: int = 12) -> np.ndarray:
    """What a ridge predicts -> class ids, metres or unit vectors."""
    side = math.isqrt(len(rows) // count)
    planes = rows.reshape(count, side, side, CHANNELS[task], block, block).transpose(0, 3, 1, 4, 2, 5)
    planes = planes.reshape(count, CHANNELS[task], side * block, side * block)
    if task == "segmentation":
        return planes.argmax(1)
    if task == "depth":
        return np.exp(planes[:, 0])
    return planes / np.maximum(np.linalg.norm(planes, axis=1, keepdims=True), 1e-6)


def ridge_scores(
    fit: np.ndarray, seen: np.ndarray, truth_fit: dict[str, Any], truth_seen: dict[str, Any]
) -> dict[str, float]:
    """Scores of ridges from tokens (N x T x D): strength chosen on one half of validation, scored on the other."""
    mean, spread = fit.mean((0, 1)), fit.std((0, 1)) + 1e-6
    fit, seen = (
        (np.append((x - mean) / spread, np.ones((*x.shape[:2], 1)), -1)).astype(np.float32) for x in (fit, seen)
    )
    flat, half = fit.reshape(-1, fit.shape[-1]), len(seen) // 2
    found = {}
    for task in CHANNELS:
        gram = (flat.T @ flat).astype(np.float64)
        right = np.zeros((flat.shape[1], CHANNELS[task] * 144))
        for at in range(0, len(fit), 100):
            part = fit[at : at + 100].reshape(-1, fit.shape[-1])
            right += part.T @ targets(task, truth_fit[task][at : at + 100])
        scores = {}
        for strength in (1e1, 1e2, 1e3, 1e4, 1e5):
            weights = np.linalg.solve(gram + strength * np.eye(len(gram)), right).astype(np.float32)
            guess = np.concatenate(
                [from_blocks(task, p.reshape(-1, p.shape[-1]) @ weights, len(p)) for p in np.array_split(seen, 10)]
            )
            scores[strength] = [
                score(task, g, t)
                for g, t in zip(
                    (guess[:half], guess[half:]), (truth_seen[task][:half], truth_seen[task][half:]), strict=True
                )
            ]
        sign = 1 if task == "normals" else -1
        found[task] = scores[min(scores, key=lambda k: sign * scores[k][0])][1]
    return found


def position_prior(task: str, fit: np.ndarray) -> np.ndarray:
    """The best constant map: most frequent class, median metres, mean normal. 1 x ..."""
    if task == "segmentation":
        counts = np.stack([(fit == c).sum(0) for c in range(CHANNELS[task])])
        return counts.argmax(0)[None]
    if task == "depth":
        return np.median(fit.astype(np.float32), axis=0)[None]
    mean = fit.astype(np.float32).mean(0)
    return (mean / np.linalg.norm(mean, axis=0))[None]


def patches(images: np.ndarray) -> np.ndarray:
    """uint8 N x 96 x 96 x 3 -> N x 64 x 440: raw pixels of each patch at half resolution, and where it is."""
    small = images.reshape(len(images), 48, 2, 48, 2, 3).mean((2, 4)) / 255
    cut = small.reshape(-1, 8, 6, 8, 6, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(images), 64, 108)
    where = np.broadcast_to(np.eye(64, dtype=np.float32), (len(images), 64, 64))
    return np.concatenate([cut, where], -1).astype(np.float32)


def colour_baseline(fit: dict[str, Any], seen: dict[str, Any]) -> float:
    """Top-1 of the name from the colour histogram (4x4x4, whole and centre) by a ridge, best strength."""

    def histogram(images: np.ndarray) -> np.ndarray:
        cells = (images // 64).astype(np.int64) @ np.array([16, 4, 1])
        middle = cells[:, 24:72, 24:72]
        return np.stack(
            [
                np.concatenate([np.bincount(x.ravel(), minlength=64) / x.size for x in pair])
                for pair in zip(cells, middle, strict=True)
            ]
        )

    a, b = np.sqrt(histogram(fit["images"])), np.sqrt(histogram(seen["images"]))
    best = 0.0
    for strength in (0.1, 1.0, 10.0):
        weights = np.linalg.solve(a.T @ a + strength * np.eye(a.shape[1]), a.T @ np.eye(len(names()))[fit["names"]])
        best = max(best, float(((b @ weights).argmax(1) == seen["names"]).mean()))
    return best


def run_check(arguments: argparse.Namespace) -> None:
    import open_clip
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional as F

    from clipzoo.experts.demo import TinyUNet

    keys = ("images", "names", *CHANNELS)
    probe, held = (load(arguments.out / s, keys) for s in ("probe", "validation"))
    half = len(held["images"]) // 2

    def show(row: str, scores: dict[str, float]) -> None:
        print(
            f"{row:24s} mIoU {scores['segmentation']:.3f}  d1 {scores['depth']:.3f}  normals {scores['normals']:.1f}",
            flush=True,
        )

    constant = {t: position_prior(t, probe[t]) for t in CHANNELS}
    show("position prior", {t: score(t, np.broadcast_to(constant[t], held[t].shape), held[t]) for t in CHANNELS})
    show("pixels + position", ridge_scores(patches(probe["images"]), patches(held["images"]), probe, held))

    def tokens(model: Any, images: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            found = []
            for part in torch.from_numpy(images).split(200):
                seen = model.visual.forward_intermediates(normalise(part), indices=[3, 4], stop_early=False)
                maps = [F.interpolate(m, size=(8, 8), mode="bilinear") for m in seen["image_intermediates"]]
                found.append(torch.cat(maps, 1).flatten(2).transpose(1, 2))
        return torch.cat(found).numpy()

    model, *_ = open_clip.create_model_and_transforms(f"local-dir:{arguments.target / 'clip'}")
    torch.manual_seed(1)
    unseen = open_clip.model.CLIP(**MODEL | {"text_cfg": {**MODEL["text_cfg"], "vocab_size": 1001}})  # type: ignore[dict-item]
    for row, network in (("random student", unseen), ("start CLIP", model)):
        show(row, ridge_scores(tokens(network, probe["images"]), tokens(network, held["images"]), probe, held))
    told = {}
    for task in CHANNELS:
        path = arguments.target / f"experts/{task}.safetensors"
        if path.exists():
            expert = TinyUNet(CHANNELS[task])
            expert.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
            told[task] = score(task, expert_guesses(task, expert, held["images"][half:]), held[task][half:])
    if len(told) == len(CHANNELS):
        show("experts", told)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{arguments.target / 'clip'}")
    for split in ("validation", "heldout"):
        if (arguments.out / split).exists():
            data = load(arguments.out / split, ("images", "names"))
            truth = torch.from_numpy(data["names"]).long()
            print(
                "zero-shot",
                split,
                zero_shot(model, tokenizer, torch.from_numpy(data["images"]), truth),
                f"chance {1 / len(names()):.3f}",
            )
    print("colour histogram", colour_baseline(load(arguments.out / "pretraining", ("images", "names"), 10_000), held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("render")
    drawing.add_argument("--split", choices=SPLITS, required=True)
    drawing.add_argument("--count", type=int, required=True)
    drawing.add_argument("--out", type=Path, required=True)
    drawing.add_argument("--workers", type=int, default=2)
    drawing.set_defaults(run=run_render)
    clip = commands.add_parser("clip")
    clip.add_argument("--out", type=Path, required=True)
    clip.add_argument("--target", type=Path, default=DEMO)
    clip.add_argument("--steps", type=int, default=1300)
    clip.add_argument("--batch", type=int, default=192)
    clip.add_argument("--rate", type=float, default=1e-3)
    clip.add_argument("--bf16", action="store_true")
    clip.set_defaults(run=run_clip)
    experts = commands.add_parser("experts")
    experts.add_argument("--out", type=Path, required=True)
    experts.add_argument("--target", type=Path, default=DEMO)
    experts.add_argument("--tasks", nargs="+", choices=list(CHANNELS), default=list(CHANNELS))
    experts.add_argument("--steps", type=int, default=1100)
    experts.add_argument("--rate", type=float, default=3e-3)
    experts.set_defaults(run=run_experts)
    check = commands.add_parser("check")
    check.add_argument("--out", type=Path, required=True)
    check.add_argument("--target", type=Path, default=DEMO)
    check.set_defaults(run=run_check)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
