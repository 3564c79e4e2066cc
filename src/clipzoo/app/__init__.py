"""``clipzoo app``: the predictions of a student on pictures that are dropped into a page of the browser."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from clipzoo.errors import ClipzooError
from clipzoo.files import AnyPath
from clipzoo.models import Loaded

HOST = "127.0.0.1"

MAX_FILE = 100 * 2**20
"""Largest uploaded file in bytes; the number of pixels has the limit of all pictures."""

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Gradio reads its variable when it is imported."""


def _forever() -> None:
    threading.Event().wait()


def serve(
    student: Loaded | AnyPath,
    start: Loaded | AnyPath | None = None,
    *,
    arm: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    host: str = HOST,
    port: int | None = None,
    share: bool = False,
    opened: Callable[[str], None] = lambda address: None,
    wait: Callable[[], object] = _forever,
) -> None:
    """Serve the page until ``wait`` returns or Ctrl+C is pressed; uploaded pictures are deleted at the end.

    Args:
        student: as in `clipzoo.show`, as are ``start``, ``arm``, ``seed``, ``device`` and ``trust_remote_code``.
        start: a second student, shown first.
        arm: the arm of a run.
        seed: the seed of a run.
        device: device in PyTorch's notation.
        trust_remote_code: allow the tokenizer to run Python code that comes with the student.
        host: the address to listen on. Other machines reach ``0.0.0.0``; the page has no password.
        port: the port to listen on; default: the first free one from 7860.
        share: also open a public address through Gradio's servers.
        opened: called with each address.
        wait: returns when the server is to stop.

    Raises:
        ClipzooError: Gradio is not installed, or the address is in use.
        CheckpointError: there is no such student, or it is damaged.
    """
    check_gradio()
    os.environ.update(QUIET)
    from clipzoo.app import page
    from clipzoo.runs.showing import models_of

    models, notes = models_of(student, start, arm, seed, device, trust_remote_code)
    source = "a loaded student" if isinstance(student, Loaded) else str(student)
    with tempfile.TemporaryDirectory(prefix="clipzoo-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page.build(models, notes, source, Path(folder))
        try:
            for address in page.launch(blocks, host, port, share, MAX_FILE):
                opened(address)
            wait()
        except KeyboardInterrupt:
            pass
        finally:
            blocks.close(verbose=False)


def check_gradio() -> None:
    """Raise `ClipzooError` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ClipzooError(
            "clipzoo app needs Gradio, which is not installed. Run `pip install 'clipzoo[app]'`, or write a page with "
            "`clipzoo predict`, which needs nothing else"
        )
