"""Values of YAML, limited to those of JSON: a recipe is saved, compared and sent to other processes as such."""

from __future__ import annotations

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from clipzoo.errors import RecipeError

LARGEST = 100_000
"""Values of a document, each alias counted with everything that it stands for; a text counts once per 100
characters."""
DEEPEST = 50
"""Levels of lists and mappings within each other."""
WHOLE = 2**63
"""Whole numbers are below, in absolute value: PyTorch and Arrow hold no others."""
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_JSON = (None, *(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")))


class _RefusedError(Exception):
    """A value that is YAML, but not allowed; the text is the end of a sentence that the source begins."""


class _Loader(yaml.SafeLoader):
    """A safe loader of the types of JSON: dates are text. A repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 – a class attribute of PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _JSON}  # noqa: RUF012 – likewise

    def compose_mapping_node(self, anchor: dict[object, Node]) -> MappingNode:  # types-PyYAML 6; it is a name or None
        """Return a mapping, before merge keys are resolved, which may repeat its keys."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise _RefusedError(
                    f"has {key.value!r} twice in one mapping, in line {first} and in line {line}: YAML would ignore "
                    "the first. Merge both, or remove one"
                )
            lines[key.tag, key.value] = line
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        """Resolve merge keys, whose aliases multiply at each level before PyYAML 6.0.4."""
        super().flatten_mapping(node)
        if len(node.value) > LARGEST:
            raise _too_large()

    def construct_object(self, node: Node, deep: bool = False) -> object:
        """Return the value of a node; failed conversions name its line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise ConstructorError(None, None, f"found an invalid {kind}", node.start_mark) from error


def read_yaml(text: str, source: str) -> object:
    """Return the value of a YAML document: texts, numbers, booleans, None, lists and dicts. None of them is shared.

    Args:
        text: the document.
        source: its name in messages.

    Raises:
        RecipeError: it is not YAML, is too large, repeats a key, or has values that JSON does not have.
    """
    try:
        return _Copy().of(yaml.load(text, _Loader), "", 0)
    except _RefusedError as error:
        raise RecipeError(f"{source} {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # \U00110000 in quotes is a ValueError
        raise RecipeError(f"{source} is not YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{source} {_TOO_DEEP}") from error


_TOO_DEEP = f"has more than {DEEPEST} levels of lists and mappings within each other, or an alias of itself: flatten it"


def _too_large() -> _RefusedError:
    return _RefusedError(
        f"is too large: it has more than {LARGEST:,} values, including those that aliases (*name) repeat. Remove "
        "aliases, or shorten lists"
    )


class _Copy:
    """A copy of plain values in which aliases are expanded; it stops at the limits."""

    def __init__(self) -> None:
        self.size = 0

    def of(self, value: object, place: str, depth: int) -> object:
        """Return the copy of a value; ``place`` is its dotted path."""
        self.size += 1 + (len(value) // 100 if isinstance(value, str) else 0)
        if self.size > LARGEST:
            raise _too_large()
        if depth > DEEPEST:
            raise _RefusedError(_TOO_DEEP)
        if isinstance(value, dict):
            items = ((_key(key, place), inner) for key, inner in value.items())
            return {key: self.of(inner, f"{place}.{key}".lstrip("."), depth + 1) for key, inner in items}
        if isinstance(value, list):
            return [self.of(inner, f"{place}.{number}".lstrip("."), depth + 1) for number, inner in enumerate(value)]
        if isinstance(value, str):
            return _text(value, place)
        if isinstance(value, int) and abs(value) >= WHOLE:
            raise _RefusedError(f"has a number of {len(str(abs(value)))} digits{_at(place)}: give one below {WHOLE:g}")
        return value


def _key(key: object, place: str) -> str:
    if not isinstance(key, str):
        raise _RefusedError(
            f"has {key!r} as a name{_at(place)}, which is no text: write it in quotes; YAML reads on, off, yes and no "
            "as true and false"
        )
    return _text(key, place)


def _text(text: str, place: str) -> str:
    """Return a text in which pairs of surrogates, the escapes of JSON, are characters."""
    if "\0" in text:
        raise _RefusedError(f"has the character NUL{_at(place)}, which no path or name can have: remove it")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _at(place: str) -> str:
    return f" in {place}" if place else ""
