"""Mistakes of a client, answered as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from crossmoda.errors import CrossmodaError, find_user_error


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
        raise HTTPException(status, str(user_error)) from error
