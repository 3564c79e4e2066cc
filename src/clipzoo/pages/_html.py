"""Templates of this package as HTML: one environment with autoescape, one base template, one style sheet."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipzoo.errors import counted


def render(template: str, **values: object) -> bytes:
    """Return a page as UTF-8.

    Args:
        template: a file of this package that extends ``base.html``.
        values: of its variables. Text is escaped; `Markup` is not.
    """
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-8", "replace")  # a lone surrogate of a file name has no UTF-8


def macro(template: str, name: str, *values: object) -> str:
    """Return what a macro of a template writes, for pages of other servers; text is escaped."""
    return str(getattr(_environment().get_template(template).module, name)(*values))


def asset(name: str) -> Markup:
    """Return a style sheet or script of this package, unescaped: it holds no text of a user."""
    return Markup(files("clipzoo.pages").joinpath(name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("clipzoo.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"style": asset("style.css"), "counted": counted}
    return environment
