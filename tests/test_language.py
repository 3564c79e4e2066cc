"""Everything that a person reads is plain technical English: forbidden phrases with their replacements."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "clipzoo"
ALLOWED = Path(__file__).with_name("language_allowed.txt")
"""Exceptions, one per line: ``path: phrase``."""

SPELLING = "American spelling"
PHRASES = {
    r"labels (that|which) (one has|you have|exist|are there)": "existing labels",
    r"own labels": "existing labels",
    r"(of )?one's own": "custom",
    r"mend(s|ed|ing)?": "fix",
    r"(go|goes|went|going) on (behind|where|at|from|with|in)": "resume",
    r"the same command (goes|go) on": "rerunning the command resumes",
    r"run the same( command)? again": "rerun the command",
    r"(a|the|short|another) look at": "check",
    r"looks? (at|into) (a|the) (dataset|data|store|expert)": "check",
    r"hand(s|ed)? (back|over|it over|the student over)": "export",
    r"student home|home again": "export",
    r"still to do": "remaining",
    r"(it|that|they|which|what \w+) lacks?": "missing",
    r"mostly as": "most common reason",
    r"characters in the middle": "median length in characters",
    r"come(s)? again": "duplicate",
    r"sound one": "(drop)",
    r"broken epochs": "fractional epochs",
    r"stands? (in|as|at|behind|beside|there|where|before)": "is recorded in, is in",
    r"(is|are|was|were|be|been) told": "is reported, is shown",
    r"(is|are|was|were|be) said (of|by|to|in)": "is reported",
    r"tells? (of|that it|what)": "report, show",
    r"at hand": "available",
    r"chance chooses": "at random times",
    r"that one (knows|has)": "(drop)",
    r"anew": "again, from the start",
    r"what (a run|it|they) leaves?": "outputs",
    r"at once": "immediately, together, at a time",
    r"by itself": "automatically, alone",
    r"beside": "next to, relative to",
    r"behind": "after, past",
    r"nobody's": "(drop)",
    r"for want of": "without",
    r"of others": "of other people, foreign",
    r"misspelt|spelt|learnt|whilst|amongst|grey|catalogues?|judgement|licences?|artefacts?": SPELLING,
    r"(colour|favour|behaviour|neighbour|honour)(s|ed|ing|able|hood)?|(centre|metre|fibre|litre)[sd]?": SPELLING,
    r"(label|model|cancel|travel|signal)l(ed|ing|er)|analyse[ds]?": SPELLING,
    r"(recogn|normal|organ|optim|quant|summar|initial|serial|visual|util|minim|maxim)is(e[ds]?|ing|ation)": SPELLING,
}
FORBIDDEN = {
    re.compile(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), re.IGNORECASE): advice for phrase, advice in PHRASES.items()
}
RELATIVE = re.compile(r"(What|Whether|Which|How|Where)\b")


def test_no_forbidden_phrase_is_used() -> None:
    allowed = set(ALLOWED.read_text(encoding="utf-8").splitlines())
    hits = {
        f"{path}:{line}: {phrase!r} -> {advice}"
        for path, first, text in _texts()
        for line, phrase, advice in _hits(text, first)
        if f"{path}: {phrase}" not in allowed
    }
    assert not hits, "\n".join([f"{len(hits)} phrases to replace", *sorted(hits)])


def test_no_summary_begins_with_a_relative_clause() -> None:
    hits = []
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                summary = ast.get_docstring(node) or ""
                if RELATIVE.match(summary):
                    place = f"{path.relative_to(ROOT)}:{node.body[0].lineno}"
                    hits.append(f"{place}: {summary.splitlines()[0]!r} -> imperative or noun phrase")
    assert not hits, "\n".join([f"{len(hits)} docstrings to rewrite", *hits])


def test_allowed_phrases_are_still_used() -> None:
    used = {f"{path}: {phrase}" for path, first, text in _texts() for _, phrase, _ in _hits(text, first)}
    assert not set(ALLOWED.read_text(encoding="utf-8").splitlines()) - used, f"remove these lines from {ALLOWED.name}"


def _texts() -> Iterator[tuple[str, int, str]]:
    """Yield (file, first line, text) of every page, string and comment."""
    pages = [
        *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md"), *ROOT.glob("recipes/*.yaml"),
        ROOT / "findings" / "README.md", ROOT / "Makefile", *SOURCE.rglob("*.html"),
    ]  # fmt: skip
    for path in pages:
        yield str(path.relative_to(ROOT)), 1, path.read_text(encoding="utf-8")
    for path in _modules():
        source, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:  # no stored key
                yield name, node.lineno, node.value
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield name, token.start[0], token.string


def _modules() -> list[Path]:
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 100
    return paths


def _hits(text: str, first: int) -> Iterator[tuple[int, str, str]]:
    """Yield (line, phrase, replacement) of the forbidden phrases in a text; ``first`` is its first line."""
    for pattern, advice in FORBIDDEN.items():
        for match in pattern.finditer(text):
            yield first + text.count("\n", 0, match.start()), " ".join(match[0].split()), advice
