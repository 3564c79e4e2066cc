"""What makes two runs of one training equal to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipzoo.errors import RecipeError


@contextmanager
def arithmetic(deterministic: bool) -> Iterator[None]:
    """Compute with a fixed number of threads; if ``deterministic``, with one, and by deterministic kernels alone.

    The order in which several threads' partial sums are added is not fixed by all kernels, and MKL chooses the number
    of its threads call by call until `torch.set_num_threads` has been called (torch 2.14 switches `MKL_DYNAMIC` off
    there, and only there).

    Raises:
        RecipeError: the device has no deterministic kernel of what the student or a loss computes.
    """
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1 if deterministic else threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS is not; read by torch
        torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if deterministic and "deterministic" in str(error):
            raise RecipeError(
                f"training.deterministic is true, and a kernel of this device is not ({str(error).splitlines()[0]}): "
                "choose another head or loss, train on the CPU, or give --set training.deterministic=false"
            ) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
