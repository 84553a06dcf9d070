"""The way from the viewer's pages to the DICOMweb server, and to nothing else there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import requests
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from starlette.concurrency import run_in_threadpool

from crossmoda.self_training.review_archive import search_query

_SERVICE = re.compile(r"(studies|series|instances|bulkdata)(/[A-Za-z0-9._,-]+)*/?")
_SEARCH = re.compile(r"(.*/)?(studies|series|instances)/?")
_REQUEST_HEADERS = ("accept", "content-type")  # nobody's password for this server goes to the other one
_ANSWER_HEADERS = ("content-type", "etag", "last-modified", "warning")
_CHUNK = 1 << 18


def serve_dicomweb(app: FastAPI) -> None:
    """Answer ``/proxy/dicom/...`` in place of MONAI Label, which leaves the root and drops the query."""
    known = len(app.router.routes)
    paths = (("/proxy/dicom/{service}/{path:path}", forward_service), ("/proxy/dicom/{path:path}", forward))
    for path, endpoint in paths:
        app.add_api_route(
            settings.MONAI_LABEL_API_STR + path, endpoint, methods=["GET", "POST"], include_in_schema=False
        )
    routes = app.router.routes
    routes[:] = routes[known:] + routes[:known]


async def forward_service(request: Request, service: str, path: str) -> StreamingResponse:
    """Forward a request to one of the services, whose prefixes are MONAI Label's settings."""
    prefixes = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_WADO_PREFIX if path.endswith("metadata") else settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    if service not in prefixes:
        return await forward(request, f"{service}/{path}")
    return await _forward(request, path, prefixes[service])


async def forward(request: Request, path: str) -> StreamingResponse:
    """Forward a request to the DICOMweb server's root."""
    return await _forward(request, path, None)


async def _forward(request: Request, path: str, prefix: str | None) -> StreamingResponse:
    body = await request.body() if request.method == "POST" else None
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    query = request.url.query
    if _SEARCH.fullmatch(path):
        query = search_query(parse_qsl(query, keep_blank_values=True))
    answer = await run_in_threadpool(_ask, request.method, address_of(path, prefix), query, headers, body)
    told = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
    return StreamingResponse(_content_of(answer), answer.status_code, told)


def address_of(path: str, prefix: str | None) -> str:
    """Return the address below the DICOMweb root that a path names.

    Raises:
        HTTPException: 404 where there is no DICOMweb server or the path is none of its own.
    """
    root = settings.MONAI_LABEL_STUDIES.rstrip("/")
    if not root.startswith(("http://", "https://")):
        raise HTTPException(404, "no DICOMweb server behind this one; the scans are in a folder")
    if not _SERVICE.fullmatch(path) or any(part.strip(".") == "" for part in path.rstrip("/").split("/")):
        raise HTTPException(404, "not an address of DICOMweb (studies, series, instances)")
    return "/".join([root, *([prefix.strip("/")] if prefix else []), path])


def _ask(method: str, address: str, query: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    try:
        return requests.request(
            method,
            f"{address}?{query}" if query else address,
            headers=headers,
            data=body,
            auth=(name, password) if name and password else None,
            timeout=settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT,
            allow_redirects=False,  # which might lead anywhere
            stream=True,
        )
    except requests.RequestException as error:
        raise HTTPException(502, "the DICOMweb server does not answer; is it running?") from error


def _content_of(answer: Any) -> Iterator[bytes]:
    with answer:
        yield from answer.iter_content(_CHUNK)
