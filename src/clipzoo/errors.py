"""Every error that clipzoo raises on purpose.

ClipzooError
├── RecipeError        a recipe, or a value in it, is wrong (all findings at once)
├── PluginError        a name that no file of a folder and no entry point bears
├── DatasetError       a dataset cannot be read as a whole
├── SampleError        one sample cannot be used: it becomes a row with this reason
│   └── ImageError     its picture cannot be decoded
├── LabelError         a label breaks the contract of its task
├── ExpertError        an expert cannot be loaded, or gave something that is no label
├── EngineError        a cluster cannot do the labeling that it is asked for
├── StoreError         a label store is damaged, foreign, or in use
│   └── LostError      a file of it is gone while it is read
├── RemoteError        a place on a network cannot be reached, read or written
├── PlanError          images and labels cannot be joined into a training plan
├── CheckpointError    a run or checkpoint cannot be continued or loaded
└── DivergedError      training has left the finite numbers

Each message says what was seen, why it is wrong, and the exact fix.
"""

import re
from typing import Literal

Code = Literal[
    "not-downloaded",  # the dataset lists the sample without its image; not counted as a failure
    "truncated",  # the file ends or is damaged at this sample
    "duplicate-key",
    "unsafe-name",  # a file outside of the dataset, a link, or a name that no file can have
    "no-image",
    "no-caption",
    "ambiguous-image",  # several image files share one name
    "empty",  # 0 bytes
    "too-large",
    "cannot-read",
    "cannot-decode",
    "invalid-text",  # not UTF-8, not JSON, or not a row
    "no-label",  # imported labels: none for this key
    "unsound-label",  # the label breaks its contract
    "damaged-input",  # a label that a derived expert reads is damaged
    "expert-failed",
    "unusable",  # any other reason, for example one of a plugin
]
"""The codes by which failures are counted and grouped."""

MAX_FAILURES = 0.05
"""The share of a column's samples that may fail before labeling stops, if nothing else is asked for."""

LONGEST = 120
"""Characters of a kind: a library may say much in one line."""

_VARIES = re.compile(r"b?'[^'\n]*'|b?\"[^\"\n]*\"|(?<![\w.~-])[\w.~-]*/\S*\w|0x[0-9a-fA-F…]+")
"""Names, paths, addresses in memory."""

_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_RAISED = re.compile(r"((?<=the expert failed: )\w+|\b\w*(?:Error|Exception)): (.*)")
"""An exception's type and the first line that it says."""

_OURS = ("SampleError", "ImageError", "LabelError", "ExpertError")
"""Exceptions that samples meet, of this file: they, too, say behind a colon what differs from sample to sample."""


def kind_of(reason: str) -> str:
    """Return a reason without names, numbers, and text in brackets or after a colon, which differ between samples.

    The text of an exception after a colon is kept.
    """
    bare = _VARIES.sub("…", reason[: 10 * LONGEST])
    told, raised = _clause(bare), _RAISED.search(bare)
    if raised is not None:
        said = _clause(raised[2]) if raised[1] in _OURS else _plain(re.sub(r"\([^()]*\)", "", raised[2]))
        told = ": ".join(dict.fromkeys(filter(None, (told, raised[1], said))))
    told = told or reason.strip()
    return told if len(told) <= LONGEST else told[: LONGEST - 1].rstrip() + "…"


def _clause(text: str) -> str:
    """A text up to its first colon, without its first brackets."""
    parts = re.match(r"([^(:;\n]*)(?:\([^()]*\))?([^(:;\n]*)", text)
    return _plain(parts[1].rstrip() + parts[2] if parts else text)


def _plain(text: str) -> str:
    """Without numbers."""
    return re.sub(r"(?<![\w-])\d+", "…", text).strip()


def brief(error: BaseException, most: int = 160) -> str:
    """The first line of what another library says, cut to ``most`` letters: its advice on itself goes on for lines."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= most else f"{text[:most]}…"


def visible(text: str) -> str:
    """Text of others for a terminal: what steers it (escapes, carriage returns, turns of direction) is written out.

    Line ends and tabs stay.
    """
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ClipzooError(Exception):
    """Base of all errors meant for users; the CLI prints it without a traceback."""


class RecipeError(ClipzooError, ValueError):
    """A recipe does not describe a run."""


class PluginError(ClipzooError, ValueError):
    """Nothing bears this name."""


class DatasetError(ClipzooError, ValueError):
    """A dataset cannot be read."""


class SampleError(ClipzooError, ValueError):
    """One sample cannot be used. The reason is stored as a row, and the run continues.

    ``code`` groups the reason with others: see `Code`.
    """

    def __init__(self, detail: str, code: Code = "unusable") -> None:
        super().__init__(detail)
        self.code: Code = code


class ImageError(SampleError):
    """A picture cannot be decoded."""

    def __init__(self, detail: str, code: Code = "cannot-decode") -> None:
        super().__init__(detail, code)


class LabelError(ClipzooError, ValueError):
    """A label breaks its task's contract."""


class ExpertError(ClipzooError, ValueError):
    """An expert cannot be loaded or used."""


class EngineError(ClipzooError, RuntimeError):
    """There is no cluster to label on, or it cannot do what is asked of it."""


class StoreError(ClipzooError, ValueError):
    """A label store cannot be read or written."""


class LostError(StoreError):
    """A file of a label store is gone while it is read: labels would be lost one after the other."""


class RemoteError(ClipzooError):
    """A place on a network cannot be used; no `OSError`, which would be taken for a damaged file."""


class PlanError(ClipzooError, ValueError):
    """Images and labels do not join into a training plan."""


class CheckpointError(ClipzooError, ValueError):
    """A checkpoint or run folder does not fit."""


class DivergedError(ClipzooError, ValueError):
    """Training has left the finite numbers."""
