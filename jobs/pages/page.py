"""Templates → pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jobs.pages import words

_FILTERS = ("count", "number", "share", "size", "duration", "shortened")
_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, *, title: str, subtitle: str, kind: str, **values: Any) -> str:
    """A page of one of our templates; every value is escaped.

    Args:
        template: its file in `templates/`, which extends `page.html`.
        title: of the page.
        subtitle: a line below it.
        kind: what the page is, in a few words above the title.
        values: what the template names; one that is missing is an error.
    """
    return (
        _environment()
        .get_template(template)
        .render(title=title, subtitle=subtitle, kind=kind, **values)
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(words, name) for name in _FILTERS})
    environment.globals["style"] = Markup((_TEMPLATES / "page.css").read_text())
    environment.globals["script"] = Markup((_TEMPLATES / "page.js").read_text())
    return environment
