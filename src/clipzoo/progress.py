"""Progress reports of a run; the command line shows them as bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PERIOD = 30.0
"""Seconds between two lines of progress where the output is not a terminal."""


class Progress(Protocol):
    """Receiver of progress reports."""

    def stage(self, text: str) -> None:
        """Report the start of a new part of the run, with ``text`` as its headline."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` steps of ``what``."""


class Silent:
    """A receiver that shows nothing."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Do nothing."""


@contextmanager
def no_bars(downloads: bool = False) -> Iterator[None]:
    """Disable the progress bars of transformers in the block, because they would overwrite those of a run.

    Download bars of the hub remain unless ``downloads`` is true. The user's setting ``HF_HUB_DISABLE_PROGRESS_BARS``
    has precedence.
    """
    from huggingface_hub import constants
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    loading_bars, download_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.disable_progress_bar()  # disables the hub's, too
    if download_bars and not downloads:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        if loading_bars:
            logging.enable_progress_bar()  # enables the hub's, too
        if download_bars:
            hub.enable_progress_bars()
        else:
            hub.disable_progress_bars()
