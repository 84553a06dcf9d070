"""Mistakes of a client, answered as such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.self_training.review_verdicts import ChangedMeanwhileError


@contextmanager
def answering_client_errors(status: int = 400) -> Iterator[None]:
    """Turn a ``CrossmodaError``, also one that MONAI has wrapped, into an HTTP answer with its line as the reason."""
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        user_error: CrossmodaError | None = find_user_error(error)
        if user_error is None:
            raise
        status = 409 if isinstance(user_error, ChangedMeanwhileError) else status
        raise HTTPException(status, without_folders(str(user_error))) from error


def without_folders(text: str) -> str:
    """Return a message with the names of files, but not of this machine's folders."""
    return re.sub(r"(?<![\w.])(/[^/\s:'\"]+)+/", "", text)


def refusal(error: HTTPException) -> JSONResponse:
    """Return the answer that an ``HTTPException`` stands for."""
    return JSONResponse({"detail": error.detail}, error.status_code, dict(error.headers or {}))


async def refuse_invalid_request(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that lacks a field or holds one of another type, in one line that repeats nothing it held."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    said = [f"{'.'.join(str(part) for part in item['loc'][1:]) or item['loc'][0]}: {item['msg']}" for item in problems]
    return JSONResponse({"detail": "; ".join(said)[:400] or "not a valid request"}, 422)
