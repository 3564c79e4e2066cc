#!/usr/bin/env bash
#
# Packages: torch 2.14.1, numpy 2.4.6
# Behavior: fully_shard() on two ranks (gloo, CPU) with torch.amp.GradScaler. If all parameters are sharded, unscale_()
#   works, and an overflow in the shard of one rank is found on both. If one parameter is in ignored_params, so that its
#   gradient is a plain tensor, unscale_() raises an AttributeError about a missing attribute 'placements'. AdamW's step,
#   also with foreach=True and fused=True, accepts the same mixed list of parameters.
# Expected instead: The plain scalar is unscaled like the others, as the optimizer updates it like the others.
# Why it matters: fully_shard refuses scalars, so the scalar logit_scale of a CLIP model is an ignored parameter. Training
#   such a model with fp16 then fails in its first step, though both its optimizer and its bf16 training work.
#   Unscale the local shards (to_local) and reduce found_inf over the ranks.
# Output seen (CPython 3.11, Linux x86-64):
#   torch 2.14.1+cu130
#   all sharded: overflow found on ranks 0 and 1: [True, True]
#   one ignored scalar: AttributeError: 'Tensor' object has no attribute 'placements'
#   optimizer steps on the mixed list: default, foreach, fused

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        torch==2.14.1 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


class Tower(nn.Module):
    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.logit_scale = nn.Parameter(torch.full(shape, 2.0))

    def forward(self, x):
        return self.linear(x) * self.logit_scale


def prepared(mesh, shape, **options):
    tower = Tower(shape)
    ignored = {tower.logit_scale} if shape == () else set()
    fully_shard(tower, mesh=mesh, ignored_params=ignored)
    return tower, torch.optim.AdamW(tower.parameters(), **options)


def work(rank, folder, lines):
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))

    tower, optimizer = prepared(mesh, (1,))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(tower(torch.ones(2, 4)).sum()).backward()
    if rank == 1:
        tower.linear.weight.grad.to_local().fill_(float("inf"))
    scaler.unscale_(optimizer)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    found = [None, None]
    dist.all_gather_object(found, scaler.get_scale() < before)
    if rank == 0:
        lines.append(f"all sharded: overflow found on ranks 0 and 1: {found}")

    tower, optimizer = prepared(mesh, ())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(tower(torch.ones(2, 4)).sum()).backward()
    try:
        scaler.unscale_(optimizer)
        text = "works"
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    if rank == 0:
        lines.append(f"one ignored scalar: {text}")

    names = []
    for name, options in (("default", {}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        tower, optimizer = prepared(mesh, (), **options)
        tower(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        names.append(name)
    if rank == 0:
        lines.append(f"optimizer steps on the mixed list: {', '.join(names)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    lines = mp.Manager().list()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, lines), nprocs=2)
    print(f"torch {torch.__version__}")
    print("\n".join(lines))
    expected = [
        "all sharded: overflow found on ranks 0 and 1: [True, True]",
        "one ignored scalar: AttributeError: 'Tensor' object has no attribute 'placements'",
        "optimizer steps on the mixed list: default, foreach, fused",
    ]
    sys.exit(list(lines) != expected)
PY
"$python" -W ignore "$work/probe.py"
