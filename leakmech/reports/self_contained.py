"""HTML pages that need no network and nothing beside them: style and script are inside, and nothing else may run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_page(name: str, *, styles: Sequence[str] = (), images: bool = False, **values: Any) -> str:
    """The page of the template ``<name>.html.j2`` with ``<name>.css`` and, if there is one, ``<name>.js`` inside.

    Values are escaped where the template inserts them. The template also gets ``style``, ``script`` and a
    ``content_security_policy`` that allows these two and nothing else.

    Parameters
    ----------
    name
        Of the template.
    styles
        Names of style sheets of other pages that come first.
    images
        Whether the page may show images that are embedded in it (:func:`embedded_png`).
    """
    style = "\n".join(_asset(f"{sheet}.css") for sheet in (*styles, name))
    script = _asset(f"{name}.js") if f"{name}.js" in _environment().list_templates(extensions=["js"]) else ""
    scripts, pictures = _source_hash(script) if script else "'none'", "img-src data:; " if images else ""
    policy = (
        f"default-src 'none'; style-src {_source_hash(style)}; script-src {scripts}; {pictures}"
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(f"{name}.html.j2")
        .render(content_security_policy=policy, style=Markup(style), script=Markup(script), **values)
    )


def embedded_png(data: bytes) -> str:
    """A PNG image as an address that holds it whole."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("leakmech.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    """The text of a file beside the template."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
