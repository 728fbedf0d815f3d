"""HTML pages from the templates: one style, one way to render."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, values: dict[str, Any]) -> str:
    """Text of a page; it needs no network and no other file.

    Args:
        template: file name among the templates.
        values: what the template reads; text is escaped, a name it lacks is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trt_int8.evaluate", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(values)
