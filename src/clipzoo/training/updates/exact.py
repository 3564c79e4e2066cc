"""Arithmetic that makes equal trainings give equal bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipzoo.errors import RecipeError


def prepare(deterministic: bool) -> None:
    """Set what cuBLAS needs for deterministic sums, before the first matrix product: torch 2.14 reads it then."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def arithmetic(deterministic: bool) -> Iterator[None]:
    """Fix the number of threads; if ``deterministic``, use one thread and only deterministic kernels.

    The order in which several threads' partial sums are added is not fixed by all kernels, and MKL chooses the number
    of its threads call by call until `torch.set_num_threads` has been called (torch 2.14 switches `MKL_DYNAMIC` off
    there, and only there).

    Raises:
        RecipeError: the device has no deterministic kernel for an operation of the student or of a loss.
    """
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1 if deterministic else threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if deterministic and "deterministic" in str(error):
            raise RecipeError(
                f"training.deterministic is true, but this device has no deterministic kernel for an operation "
                f"({str(error).splitlines()[0]}). Choose another head or loss, train on the CPU, or add "
                "--set training.deterministic=false"
            ) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
