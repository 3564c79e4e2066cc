#!/usr/bin/env bash
#
# Packages: torch 2.14.1
# Behavior: F.normalize divides by max(norm, 1e-12), so at a zero vector its gradient is the
#   upstream gradient times 1e12, not zero (as for torch.norm) and not of order 1. A head whose
#   last layer is zero-initialized, the usual way to start a residual or extra head, produces
#   exact zero vectors. The first gradient dominates the second moment of AdamW, and after the
#   first steps the updates vanish: the weights no longer move. The loss stays finite.
# Expected instead: A zero subgradient at zero, or gradients of order 1. Zero initialization is a
#   safe start.
# Why it matters: Heads for surface normals, and any unit-norm embedding, train behind
#   F.normalize. A shared gradient clip scales all other gradients of that step to about zero as
#   well. Nothing is NaN, so no guard fires. Initialize with small values, or add a floor to the
#   norm.
# Output seen (CPython 3.11, Linux x86-64):
#   torch 2.14.1+cu130
#   gradient of F.normalize at zero: 1e+12
#   gradient of norm() at zero: 0
#   gradient 1 of another parameter after a shared clip to norm 1: 6e-13
#   initial weights x 0.0: first gradient norm 9.6e+11, loss after 500 steps 0.2292, largest weight change in the last 200 steps 0e+00
#   initial weights x 0.001: first gradient norm 1.4e+02, loss after 500 steps 0.0000, largest weight change in the last 200 steps 5e-06

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        torch==2.14.1
fi

cat > "$work/probe.py" <<'PY'
import torch
import torch.nn.functional as F

print("torch", torch.__version__)
torch.set_num_threads(1)
torch.manual_seed(0)
features = torch.randn(256, 16)
target = F.normalize(features @ torch.randn(16, 3), dim=1)


def train(scale):
    torch.manual_seed(1)
    head = torch.nn.Linear(16, 3, bias=False)
    with torch.no_grad():
        head.weight.normal_(0, 1).mul_(scale)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0)
    first = middle = None
    for step in range(500):
        loss = (1 - (F.normalize(head(features), dim=1) * target).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        first = first or head.weight.grad.norm().item()
        optimizer.step()
        if step == 299:
            middle = head.weight.detach().clone()
    return first, loss.item(), (head.weight - middle).abs().max().item()


upstream = torch.zeros(1, 3, requires_grad=True)
F.normalize(upstream, dim=1).sum().backward()
print(f"gradient of F.normalize at zero: {upstream.grad[0, 0]:.0e}")
plain = torch.zeros(3, requires_grad=True)
plain.norm().backward()
print(f"gradient of norm() at zero: {plain.grad[0]:.0f}")
other = torch.ones(1, requires_grad=True)
upstream.grad = None
(F.normalize(upstream, dim=1).sum() + other.sum()).backward()
torch.nn.utils.clip_grad_norm_([upstream, other], 1.0)
clipped = other.grad.item()
print(f"gradient 1 of another parameter after a shared clip to norm 1: {clipped:.0e}")
results = {}
for scale in (0.0, 1e-3):
    results[scale] = train(scale)
    first, loss, moved = results[scale]
    print(f"initial weights x {scale}: first gradient norm {first:.1e}, loss after 500 steps {loss:.4f}, "
          f"largest weight change in the last 200 steps {moved:.0e}")
raise SystemExit(not (results[0.0][0] > 1e10 and results[0.0][2] < 1e-6 and clipped < 1e-9 and results[0.0][1] > 100 * results[1e-3][1]))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
