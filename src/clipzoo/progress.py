"""What a run tells of itself while it goes on; the command line shows it as bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told what a run is doing."""

    def stage(self, text: str) -> None:
        """A new part of the run begins; ``text`` is a headline."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` of ``what``."""


class Silent:
    """Shows nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""


@contextmanager
def no_bars(downloads: bool = False) -> Iterator[None]:
    """Keep transformers from drawing bars over those of a run while it loads weights in the block.

    Bars of bytes that come from the hub stay, unless ``downloads`` are silenced, too. What the user has set by
    ``HF_HUB_DISABLE_PROGRESS_BARS`` stands.
    """
    from huggingface_hub import constants
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    shown, fetched = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.disable_progress_bar()  # and the hub's
    if fetched and not downloads:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # and the hub's
        (hub.enable_progress_bars if fetched else hub.disable_progress_bars)()
