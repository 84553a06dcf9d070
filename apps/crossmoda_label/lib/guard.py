"""What stands in front of MONAI Label's endpoints."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from anyio import move_on_after
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from monailabel.config import settings
from starlette.datastructures import Headers
from starlette.middleware import Middleware

from lib.access import READING, Access, tell_monai_who_asks
from lib.answers import refusal, refuse_invalid_request
from lib.dicomweb_proxy import serve_dicomweb
from lib.endpoints import serve_checked_endpoints
from lib.sign_in import serve_sign_in
from lib.start_page import serve_start_page
from lib.uploads import limit_mb

logger = logging.getLogger(__name__)

MAX_UPLOAD_MB = 512.0
MAX_OTHER_BYTES = 1 << 20  # of a request that carries no image
UPLOADS = (("PUT", "/datastore/"), ("POST", "/infer/"), ("PUT", "/session/"))
DRAIN_BYTES, DRAIN_SECONDS = 1 << 32, 120.0

# They write requests and answers into the log: names of files and scans, comments, names of people.
TALKATIVE = (
    "monailabel.endpoints",
    "monailabel.interfaces.app",
    "monailabel.datastore",
    "monailabel.utils.async_tasks",
    "monailabel.utils.sessions",
    "monailabel.transform",
    "task_batch_infer",  # what the processes of these tasks print, the results by scan among it
    "task_scoring",
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def stand_in_front(users: Path, max_upload_mb: float) -> None:
    """Put the guard before MONAI Label's endpoints; outside the server, in a training process, there is nothing to do.

    Args:
        users: the file of users.
        max_upload_mb: size of an upload, in MB.
    """
    server = sys.modules.get("monailabel.app")
    if server is None:
        return
    app, access = server.app, Access(users)
    serve_checked_endpoints(app)
    serve_dicomweb(app)
    serve_sign_in(app, access)
    serve_start_page(app)
    tell_monai_who_asks(app)
    refuse_other_origins(app)
    app.add_exception_handler(RequestValidationError, refuse_invalid_request)
    app.user_middleware[:] = [known for known in app.user_middleware if known.cls is not Guard]
    app.user_middleware.insert(0, Middleware(Guard, access=access, max_upload_bytes=int(max_upload_mb * 1e6)))
    app.middleware_stack = None  # built anew at the next request
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def upload_limit_mb(conf: dict[str, str]) -> float:
    """Return the setting ``max_upload_mb``, or its default.

    Raises:
        CrossmodaError: it is no positive number.
    """
    return limit_mb(conf, "max_upload_mb", MAX_UPLOAD_MB)


def refuse_other_origins(app: Any) -> None:
    """Keep web pages of other origins from reading the server's answers; the server's own pages need no permission.

    MONAI Label allows every origin, with credentials, and does not start when ``MONAI_LABEL_CORS_ORIGINS`` is set.
    """
    for middleware in app.user_middleware:
        if middleware.cls is CORSMiddleware:
            middleware.kwargs["allow_origins"] = []


class Guard:
    """Refuse what comes from the wrong place, person or page, or is too large; answer every failure in one line.

    Args:
        app: what stands behind.
        access: who may do what.
        max_upload_bytes: of one request with an image; all others may have ``MAX_OTHER_BYTES``.
    """

    def __init__(self, app: Any, access: Access, max_upload_bytes: int) -> None:
        self.app = app
        self.access = access
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._answer(scope, receive, answer)
        except HTTPException as error:
            await answer.refuse(error, scope, receive)
        except Exception:
            logger.exception("a request failed: %s", scope["method"])
            failed = HTTPException(500, "the server failed at this request; its log says why")
            await answer.refuse(failed, scope, receive)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        path = _path_below_root(scope)
        await self.access.admit(scope, path)
        _require_own_page(scope)
        upload = any(scope["method"] == method and path.startswith(start) for method, start in UPLOADS)
        body = _Body(receive, self.max_upload_bytes if upload else MAX_OTHER_BYTES)
        await body.require_length_within_limit(scope)
        await self.app(scope, body.receive, answer.send)


class _Answer:
    """What is sent back; remembers whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def send(self, message: dict[str, Any]) -> None:
        self._begun = True
        await self._send(message)

    async def refuse(self, error: HTTPException, scope: Scope, receive: Receive) -> None:
        if not self._begun:  # otherwise the server closes the connection, and the client sees an answer cut off
            await refusal(error)(scope, receive, self.send)


class _Body:
    """A request's body, counted while it comes in.

    Args:
        receive: of ASGI.
        limit: bytes.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._received = 0

    async def require_length_within_limit(self, scope: Scope) -> None:
        """Refuse a body whose stated length is too large; a client that sends none has none, whatever it states."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdecimal():
            raise HTTPException(400, "Content-Length is no number")
        if int(stated) > self._limit:
            await self._refuse(more=True)

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            await self._refuse(bool(message.get("more_body")))
        return message

    async def _refuse(self, more: bool) -> None:
        """Read the rest and throw it away, since a client that cannot go on sending never reads the reason."""
        drained = 0
        with move_on_after(DRAIN_SECONDS):
            while more and drained < DRAIN_BYTES:
                message = await self._receive()
                drained += len(message.get("body", b""))
                more = bool(message.get("more_body"))
        allowed = f"{self._limit / 1e6:.3g} MB"
        raise HTTPException(413, f"larger than the {allowed} allowed here; uploads: --conf max_upload_mb")


def _path_below_root(scope: Scope) -> str:
    path: str = scope["path"]
    for root in (scope.get("root_path", ""), settings.MONAI_LABEL_API_STR):
        if root and path.startswith(root):
            path = path[len(root) :]
    return path


def _require_own_page(scope: Scope) -> None:
    """Refuse what a web page of another origin makes a browser send; forms and uploads need no permission for that.

    Links from elsewhere may lead here. Of what only reads, browsers tell where it comes from (``Sec-Fetch-...``).
    """
    headers = Headers(scope=scope)
    origin, reading = headers.get("origin"), scope["method"] in READING
    foreign = origin is not None and not reading and origin.partition("://")[2] != headers.get("host")
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document" and reading
    if foreign or (headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed):
        raise HTTPException(403, "sent by a web page of another origin; use the server's own pages")
