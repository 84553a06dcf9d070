"""The page of the review's history: ``/crossmoda/history``, and all of its events at ``/crossmoda/history.csv``."""

from __future__ import annotations

import sys
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from crossmoda.self_training.review_history import csv_text, history, page
from lib.answers import answering_client_errors

HEADERS = {  # the page needs its own styles alone; nothing that a comment might smuggle in would run
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

router = APIRouter(prefix="/crossmoda", tags=["History"])
reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))


def serve_history(studies: str | Path) -> None:
    """Add the page to MONAI Label's server; outside the server, in a training process, there is nothing to do.

    Args:
        studies: the folder under review.
    """
    server = sys.modules.get("monailabel.app")
    if server is None:
        return
    known = hasattr(server.app.state, "crossmoda_studies")  # MONAI Label's /reload makes a new app on the same server
    server.app.state.crossmoda_studies = Path(studies)
    if not known:
        server.app.include_router(router)


@router.get("/history", summary="History of the review", dependencies=[reader])
def history_page(request: Request) -> Response:
    """Return the page: totals by person, and the newest events."""
    with answering_client_errors(422):
        text = page(history(request.app.state.crossmoda_studies), "history.csv")
    return Response(text, media_type="text/html; charset=utf-8", headers=HEADERS)


@router.get("/history.csv", summary="History of the review as CSV", dependencies=[reader])
def history_table(request: Request) -> Response:
    """Return all events."""
    with answering_client_errors(422):
        text = csv_text(history(request.app.state.crossmoda_studies))
    saved_as = {"Content-Disposition": 'attachment; filename="history.csv"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers={**HEADERS, **saved_as})
