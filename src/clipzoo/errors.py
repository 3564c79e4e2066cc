"""The exceptions of clipzoo, and the codes of failures.

ClipzooError
├── RecipeError        a recipe or a value in it is not valid; lists all errors
├── PluginError        no plugin has this name
├── DatasetError       a dataset cannot be read as a whole
├── SampleError        one sample cannot be used; stored as a row with a reason
│   └── ImageError     its image cannot be decoded
├── LabelError         a label breaks the contract of its task
├── ExpertError        an expert cannot be loaded, or returned something else than a label
│   └── DeviceError    the GPU of the process has failed; another process may be able to use it
├── EngineError        a cluster is missing, or cannot run the labeling
├── StoreError         a label store is damaged, of another dataset, or in use
│   └── LostError      labels are missing or have changed during training
├── RemoteError        a remote file cannot be reached, read or written
├── PlanError          images and labels cannot be joined into a training plan
├── CheckpointError    a run or checkpoint cannot be resumed or loaded
├── RankError          a process of a training ended before the others
└── DivergedError      the loss is not finite

Each message states what is wrong, why, and the exact fix.
"""

import re
import shlex
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
"""Default share of a column's samples that may fail before labeling stops."""

LONGEST = 120
"""Most characters of a kind of failure."""

_VARIES = re.compile(r"b?'[^'\n]*'|b?\"[^\"\n]*\"|(?<![\w.~-])[\w.~-]*/\S*\w|0x[0-9a-fA-F…]+")
"""Quoted names, paths and memory addresses."""

_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_RAISED = re.compile(r"((?<=the expert failed: )\w+|\b\w*(?:Error|Exception)): (.*)")
"""The type and the first line of an exception."""

_OURS = ("SampleError", "ImageError", "LabelError", "ExpertError")
"""Exceptions of this file in whose messages the text after a colon differs between samples."""


def kind_of(reason: str) -> str:
    """Return a reason without names, numbers, and text in brackets or after a colon, which differ between samples.

    The text of an exception after a colon is kept.
    """
    bare = _VARIES.sub("…", reason[: 10 * LONGEST])
    text, raised = _clause(bare), _RAISED.search(bare)
    if raised is not None:
        message = _clause(raised[2]) if raised[1] in _OURS else _plain(re.sub(r"\([^()]*\)", "", raised[2]))
        text = ": ".join(dict.fromkeys(filter(None, (text, raised[1], message))))
    text = text or reason.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _clause(text: str) -> str:
    """Return a text up to its first colon, without its first brackets."""
    parts = re.match(r"([^(:;\n]*)(?:\([^()]*\))?([^(:;\n]*)", text)
    return _plain(parts[1].rstrip() + parts[2] if parts else text)


def _plain(text: str) -> str:
    """Return a text with numbers replaced by "…"."""
    return re.sub(r"(?<![\w-])\d+", "…", text).strip()


def brief(error: BaseException, most: int = 160) -> str:
    """Return the first line of an exception of another library, cut to ``most`` characters."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= most else f"{text[:most]}…"


def shell_word(value: object) -> str:
    """Return a path or location as a word of a shell command, quoted if necessary."""
    return shlex.quote(str(value))


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 sample", "2,000 samples"; ``plural`` if it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def visible(text: str) -> str:
    """Return text that is safe for a terminal: control characters and direction marks are escaped.

    Line ends and tabs are kept.
    """
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ClipzooError(Exception):
    """Base of all errors for users. The command line prints them without a traceback."""


class RecipeError(ClipzooError, ValueError):
    """A recipe is not valid."""


class PluginError(ClipzooError, ValueError):
    """No plugin has this name."""


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
    """An image cannot be decoded."""

    def __init__(self, detail: str, code: Code = "cannot-decode") -> None:
        super().__init__(detail, code)


class LabelError(ClipzooError, ValueError):
    """A label breaks its task's contract."""


class ExpertError(ClipzooError, ValueError):
    """An expert cannot be loaded or used."""


class DeviceError(ExpertError):
    """The GPU of this process has failed, and every later call of it in this process fails too."""


class EngineError(ClipzooError, RuntimeError):
    """A cluster is missing, or cannot run the labeling."""


class StoreError(ClipzooError, ValueError):
    """A label store cannot be read or written."""


class LostError(StoreError):
    """A file of a label store is missing or has changed while it is in use."""


class RemoteError(ClipzooError):
    """A remote file cannot be used. Not an `OSError`, which means a damaged file."""


class PlanError(ClipzooError, ValueError):
    """Images and labels cannot be joined into a training plan."""


class CheckpointError(ClipzooError, ValueError):
    """A checkpoint or run folder cannot be used."""


class RankError(ClipzooError, RuntimeError):
    """A process of a training ended before the others."""


class DivergedError(ClipzooError, ValueError):
    """The loss of a training is not finite."""
