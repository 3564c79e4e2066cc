"""``clipzoo doctor``."""

from __future__ import annotations


def command() -> None:
    """What this machine has: versions, devices, memory; the first thing to send with a bug report."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from rich.table import Table

    from clipzoo.cli._console import console

    table = Table("what", "found")
    table.add_row("python", platform.python_version())
    for package in ("clipzoo", "torch", "torchvision", "open_clip_torch", "transformers", "onnxruntime", "pillow"):
        try:
            table.add_row(package, version(package))
        except PackageNotFoundError:
            table.add_row(package, "[yellow]not installed[/]")
    table.add_row("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPU", ", ".join(gpus) or "none: everything runs on the CPU")
    console.print(table)
