"""Pages of one file, made from a template of `data/`, to be read without network, fonts or scripts of others."""

import base64
import hashlib
import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vit_export.base.numbers import percent, shortened
from vit_export.base.text import visible
from vit_export.report.svg import asset
from vit_export.report.view import EMPTY, record

LONGEST_FACT = 400
"""Characters of one value in the lists of settings; the JSON that the page is made of has the whole."""


def fill(template: str, **content: Any) -> str:
    """The page that `template` (see `data/frame.html`) makes of `content`, with style, script and policy."""
    style, script = asset("chart.css") + asset("page.css"), asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            percent=percent,
            shortened=shortened,
            **content,
        )
    )


def typed(command: str) -> Markup:
    """A command as it is copied from a page, its lines kept."""
    return Markup.escape(visible(command, keep="\n"))


def facts(value: Any) -> list[tuple[str, str]]:
    """A record's values by name, those of none left out."""
    found = record(value or EMPTY).items()
    return [(str(key).replace("_", " "), shown_value(item)) for key, item in found if item is not None]


def shown_value(value: Any) -> str:
    """A value of a record as text: numbers with the digits they have, lists with commas, the rest as JSON."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return shortened(", ".join(shown_value(item) for item in value), LONGEST_FACT)
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), LONGEST_FACT)


def capital(phrase: str) -> str:
    """`phrase` as a sentence begins."""
    return phrase[:1].upper() + phrase[1:]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("vit_export", "data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever a record holds passes here on its way to the page, before it is escaped.
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )


def _policy(style: str, script: str) -> str:
    """A content security policy that allows these two texts and embedded pictures, and nothing else at all."""

    def digest(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
