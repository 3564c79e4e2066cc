"""Train the ViT start of ``recipes/proof-vit.yaml`` from the packaged one (dev time, two CPU cores, half an hour).

    S=scratch                                                                         # any folder
    python scripts/build_demo.py render --split pretraining --count 24000 --out $S    # 6 min
    python scripts/build_demo.py render --split validation  --count 1000  --out $S
    python scripts/build_vit.py --pictures $S --out data/vit-start --bf16             # 20 min

A ViT this small learns slowly from captions alone. It therefore keeps the packaged start's text tower, frozen, and
learns its image embeddings: one minus their cosine on the same view, plus the contrastive loss with the captions. It
sees no label and no map of the packaged start.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from clipzoo.demo.model import resolve
from demo_models import PREPROCESS, augment, compact, cosine, load, normalize, zero_shot

VISION = {"image_size": 96, "patch_size": 12, "layers": 4, "width": 192, "head_width": 64}
SETTINGS = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def teacher() -> tuple[Any, Path]:
    """The packaged start in evaluation mode, and its folder."""
    name = resolve("demo:clip")
    return open_clip.create_model(name).eval().requires_grad_(False), Path(name.removeprefix("local-dir:"))


def student(settings: dict[str, Any], of: Any) -> Any:
    """A ViT from random weights with the teacher's frozen text tower and scale."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**settings["model_cfg"])
    kept = {k: v for k, v in of.state_dict().items() if not k.startswith("visual.")}
    model.load_state_dict(kept, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual."))
    return model


def grouped(model: Any) -> list[dict[str, Any]]:
    """Parameters that learn; vectors without weight decay."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]


def train(arguments: argparse.Namespace) -> None:
    of, folder = teacher()
    settings = json.loads((folder / SETTINGS).read_text())
    settings["model_cfg"]["vision_cfg"] = VISION
    settings["preprocess_cfg"] = PREPROCESS
    shutil.copytree(folder, arguments.out, dirs_exist_ok=True)
    (arguments.out / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{arguments.out}")
    data = load(arguments.pictures / "pretraining", ("images", "captions"))
    held = load(arguments.pictures / "validation", ("images", "names"), 1000)
    images = torch.from_numpy(data["images"])
    with torch.no_grad():
        tokens = tokenizer([str(c) for c in data["captions"]])
        texts = torch.cat([F.normalize(of.encode_text(part), dim=-1) for part in tokens.split(500)])
    model = student(settings, of)
    optimizer = torch.optim.AdamW(grouped(model), lr=arguments.rate, betas=(0.9, 0.98))
    generator, order, began = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.long), time.time()
    for step in range(arguments.steps):
        if len(order) < arguments.batch:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * cosine(step, arguments.steps)
        view = normalize(augment(images[chosen].permute(0, 3, 1, 2).float() / 255, 0.6, generator))
        loss, near = losses(model, of, view, texts[chosen], arguments.bf16)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.visual.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(step + 1, f"{time.time() - began:.0f} s loss {loss.item():.3f} cosine {near:.3f}", flush=True)
        if (step + 1) % 400 == 0 or step + 1 == arguments.steps:
            top1 = zero_shot(model, tokenizer, torch.from_numpy(held["images"]), torch.from_numpy(held["names"]).long())
            print(f"zero-shot {top1:.3f}", flush=True)
            save_file({k: compact(v) for k, v in model.state_dict().items()}, str(arguments.out / WEIGHTS))


def losses(model: Any, of: Any, view: Tensor, text: Tensor, bf16: bool) -> tuple[Tensor, float]:
    """Return the loss, a scalar, and the mean cosine to the teacher's embeddings."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            target = F.normalize(of.encode_image(view).float(), dim=-1)
        image = F.normalize(model.encode_image(view).float(), dim=-1)
    near = (image * target).sum(-1).mean()
    logits = image @ text.T * model.logit_scale.exp().clamp(max=100).detach()
    truth = torch.arange(len(view))
    contrastive = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    return 10 * (1 - near) + 0.5 * contrastive / math.log(len(view)), float(near)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--bf16", action="store_true")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
