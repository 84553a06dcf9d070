"""Plain pages of ours, made from ``lib/templates``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HEADERS = {  # a page loads the styles of this server, sends its forms there, and runs nothing
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, a browser sends a form without saying which page it is from
    "Cache-Control": "no-store",
}

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    lstrip_blocks=True,
    trim_blocks=True,
)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; values are entered as text."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status, headers=HEADERS)
