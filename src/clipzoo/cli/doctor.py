"""``clipzoo doctor``."""

from __future__ import annotations


def command() -> None:
    """What this machine has: versions, devices, memory; the first thing to send with a bug report."""
    import os
    import platform
    import shutil
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
    table.add_row("memory", _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    table.add_row("disk", f"{_gigabytes(shutil.disk_usage('.').free)} free here")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    shown = ", ".join(f"{gpu.name} ({_gigabytes(gpu.total_memory)})" for gpu in gpus)
    table.add_row("GPU", shown or "none: everything runs on the CPU")
    console.print(table)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
