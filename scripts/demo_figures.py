"""Validation figures of the embedded world: baselines, the start, the experts; nothing of test is read."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from clipzoo.demo.meshes import names
from clipzoo.experts.demo import TinyUNet
from demo_models import CHANNELS, MODEL, expert_guesses, load, normalise, score, zero_shot


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


def check(arguments: argparse.Namespace) -> None:
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
