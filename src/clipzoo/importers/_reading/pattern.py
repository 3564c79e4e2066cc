"""Names of labels, made from keys of samples: ``pattern=rgb_{number}:sync_depth_{number}``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLACE = re.compile(r"\{([A-Za-z_]\w*)(:path)?\}")
_COLON = re.compile(r":(?![^{}]*\})")
"""The colon between the two sides; those of ``{name:path}`` are inside braces."""


@dataclass(frozen=True)
class Pattern:
    """A mapping from a sample's key to the name of its label.

    ``{name}`` on the left stands for one or more characters of the key without a slash, ``{name:path}`` for any, and
    on the right for the same characters. The whole key must fit.
    """

    key: re.Pattern[str]
    name: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the pattern of a text ``KEY:NAME``.

        Raises:
            ValueError: not two sides, a placeholder twice on the left, or one on the right alone.
        """
        if set("{}") & set(_PLACE.sub("", text)):
            raise ValueError("a brace belongs to no placeholder: {name} and {name:path} are known")
        sides = _COLON.split(text)
        if len(sides) != 2 or not all(sides):
            raise ValueError("two sides are needed with a colon between, the key's and the label's")
        key, name = sides
        names = [match[1] for match in _PLACE.finditer(key)]
        unknown = {match[1] for match in _PLACE.finditer(name)} - {*names}
        if unknown:
            raise ValueError(f"{{{min(unknown)}}} is not in the key's side")
        if len(set(names)) < len(names):
            raise ValueError("a placeholder comes twice in the key's side")
        return cls(re.compile(_expression(key), re.DOTALL), _PLACE.sub(r"{\1}", name))

    def __call__(self, key: str) -> str | None:
        """Return the name of a sample's label; None if its key does not match."""
        match = self.key.fullmatch(key)
        return None if match is None else _PLACE.sub(lambda place: match[place[1]], self.name)


def _expression(key: str) -> str:
    """Return the regular expression of the left side."""
    parts, end = [], 0
    for place in _PLACE.finditer(key):
        parts += [re.escape(key[end : place.start()]), f"(?P<{place[1]}>{'.+' if place[2] else '[^/]+'})"]
        end = place.end()
    return "".join([*parts, re.escape(key[end:])])
