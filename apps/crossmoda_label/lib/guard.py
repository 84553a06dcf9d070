"""What stands in front of MONAI Label's endpoints."""

from __future__ import annotations

import sys

from fastapi.middleware.cors import CORSMiddleware


def refuse_other_origins() -> None:
    """Keep web pages of other origins from reading the server's answers; the server's own pages need no permission.

    MONAI Label allows every origin, with credentials, and does not start when ``MONAI_LABEL_CORS_ORIGINS`` is set. The
    middleware is built anew at the next request. Outside the server, in a training process, there is nothing to do.
    """
    server = sys.modules.get("monailabel.app")
    if server is None:
        return
    for middleware in server.app.user_middleware:
        if middleware.cls is CORSMiddleware:
            middleware.kwargs["allow_origins"] = []
    server.app.middleware_stack = None
