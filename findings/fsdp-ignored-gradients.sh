#!/usr/bin/env bash
#
# Packages: torch 2.14.1, numpy 2.4.6
# Behavior: fully_shard() on two ranks (gloo, CPU): a module with a zero-dimensional parameter
#   raises a ValueError that asks for a 1-D parameter. Passing the parameter in ignored_params
#   works, but its gradient is that of the local batch only; after one step of SGD the ranks hold
#   different values. The sharded weights of the same module are averaged.
# Expected instead: An ignored parameter is replicated and its gradient averaged, as in DDP.
# Why it matters: CLIP models have a scalar logit_scale (and SigLIP a logit_bias). Each rank then
#   trains at its own temperature, a checkpoint from rank 0 holds one of them, and the loss shows
#   nothing. Average such gradients by hand after backward, or reshape the parameter to one
#   element.
# Output seen (CPython 3.11, Linux x86-64):
#   torch 2.14.1+cu130
#   scalar parameter: fully_shard doesn't support scalar parameters. Change logit_scale to a 1D tensor with numel equal to 1.
#   ignored parameter, gradient on ranks 0 and 1: [-4.212, -8.246]; after one step: [2.042, 2.082]
#   sharded weight, gradient on ranks 0 and 1: [9.0, 9.0]

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


def gather(value):
    parts = [torch.zeros(1) for _ in range(2)]
    dist.all_gather(parts, value.detach().reshape(1))
    return [round(part.item(), 3) for part in parts]


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    raised = None
    try:
        fully_shard(Tower(()), mesh=mesh)
    except ValueError as error:
        raised = str(error)
    model = Tower(())
    fully_shard(model, mesh=mesh, ignored_params={model.logit_scale})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(torch.ones(3, 4) * (rank + 1)).sum().backward()
    gradients = gather(model.logit_scale.grad)
    sharded = gather(model.linear.weight.grad.full_tensor()[0, 0])
    optimizer.step()
    scales = gather(model.logit_scale)
    if rank == 0:
        print("scalar parameter:", raised)
        print(f"ignored parameter, gradient on ranks 0 and 1: {gradients}; after one step: {scales}")
        print(f"sharded weight, gradient on ranks 0 and 1: {sharded}")
        ok = raised and gradients[0] != gradients[1] and scales[0] != scales[1] and sharded[0] == sharded[1]
        with open(f"{folder}/result", "w") as file:
            file.write("same" if ok else "changed")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=2)
        with open(os.path.join(folder, "result")) as file:
            result = file.read()
    sys.exit(result != "same")
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
