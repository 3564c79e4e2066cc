"""Precisions of the forward pass of training."""

from __future__ import annotations

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> the type of matrix products and convolutions; they stay float32 in others."""


def chosen(precision: str, device: str | torch.device) -> str:
    """Return the precision itself, or for ``auto`` that of the device: ``bf16`` if it has instructions for it.

    These are GPUs from NVIDIA's Ampere on, and CPUs with AVX512-BF16 or AMX if PyTorch has
    `torch.cpu.get_capabilities`. For others, ``auto`` is ``fp32``.
    """
    if precision != "auto":
        return precision
    return "bf16" if _has_bf16(torch.device(device)) else "fp32"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current GPU, which may be another one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def autocast(precision: str, device: str | torch.device) -> torch.autocast:
    """Return the context of a forward pass on the device in a precision of the recipe."""
    dtype = DTYPES.get(chosen(precision, device))
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)
