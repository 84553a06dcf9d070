"""The server's first page, in place of MONAI Label's, whose scripts and styles come from other servers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI, Request, Response
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from lib.access import requesting_user
from lib.plain_pages import page

NOT_SERVED = f"{settings.MONAI_LABEL_API_STR}/infer/wsi"  # whole-slide images


def serve_start_page(app: FastAPI) -> None:
    """Answer at ``/`` and ``/docs`` with a page that lists the endpoints and loads nothing from elsewhere."""
    known = len(app.router.routes)

    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    def start(request: Request) -> Response:
        instance, groups = app_instance(), endpoints_of(app.openapi())
        root = request.scope.get("root_path", "")
        about = {"name": instance.name, "description": instance.description}
        return page("start.html", groups=groups, root=root, user=requesting_user(), **about)

    routes = app.router.routes
    routes[:] = routes[known:] + routes[:known]


def endpoints_of(schema: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return tag -> (method, path, summary) of an OpenAPI description, both in the order of their names."""
    groups = defaultdict(list)
    for path, methods in schema["paths"].items():
        for method, about in methods.items() if not path.startswith(NOT_SERVED) else ():
            summary = str(about.get("summary", "")).rpartition("| - ")[2]  # MONAI Label puts its roles before it
            groups[(about.get("tags") or ["Others"])[0]].append((method.upper(), path, summary))
    return sorted((tag, sorted(found, key=lambda one: one[1])) for tag, found in groups.items())
