"""The triage page: the round's cases on one wall, to be approved, flagged, graded and commented on without 3D Slicer.

The page writes its verdicts through MONAI Label's own endpoint, as 3D Slicer's Reviewer does; here is what it shows:
``/crossmoda/triage`` is the page, ``/crossmoda/cases`` what is known of the cases, ``/crossmoda/pictures`` slices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from crossmoda.self_training.review_cases import ReviewCases, UnknownCaseError
from crossmoda.self_training.review_pictures import PLANES, Grey
from lib.answers import answering_client_errors

STATIC = Path(__file__).parent / "static"
OWN_SOURCES_ONLY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
KEEP = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}  # the address names the content

Plane = Enum("Plane", {plane: plane for plane in PLANES}, type=str)  # type: ignore[misc]

router = APIRouter(prefix="/crossmoda", tags=["Triage"])
reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))


def serve_triage(cases: ReviewCases, follow_run: Callable[[], None]) -> None:
    """Add the page to MONAI Label's server; outside the server, in a training process, there is nothing to do.

    Args:
        cases: what it shows.
        follow_run: takes over a new round of the run, if there is one.
    """
    server = sys.modules.get("monailabel.app")
    if server is None:
        return
    state = server.app.state
    known = hasattr(state, "crossmoda_cases")  # MONAI Label's /reload makes a new app on the same server
    state.crossmoda_cases, state.crossmoda_follow_run = cases, follow_run
    if not known:
        server.app.include_router(router)
        server.app.mount("/crossmoda/static", StaticFiles(directory=STATIC), name="crossmoda_static")


@router.get("/triage", include_in_schema=False)
def triage_page() -> Response:
    """Return the page."""
    return FileResponse(STATIC / "triage.html", media_type="text/html", headers=OWN_SOURCES_ONLY)


@router.get("/cases", summary="Cases under review, the most uncertain first", dependencies=[reader])
def list_cases(request: Request) -> Response:
    """Return ``{"round", "structures", "cases": [...]}``, see ``ReviewCases.listing``."""
    with _answering():
        request.app.state.crossmoda_follow_run()
        return JSONResponse(_cases(request).listing())


@router.get("/cases/{image_id}", summary="One case as it is now", dependencies=[reader])
def one_case(request: Request, image_id: str) -> Response:
    """Return what ``/crossmoda/cases`` says of one case."""
    with _answering():
        return JSONResponse(_cases(request).case(image_id))


@router.get("/cases/{image_id}/planes", summary="How many slices a case has", dependencies=[reader])
def planes_of_case(request: Request, image_id: str, tag: str | None = None) -> Response:
    """Return plane -> ``slices``, and ``middle``: the slice through the middle of the label of a tag."""
    with _answering():
        return JSONResponse(_cases(request).planes(image_id, tag))


@router.get("/pictures/{image_id}", summary="Three planes through a case's label, as PNG", dependencies=[reader])
def wall_picture(request: Request, image_id: str, tag: str | None = None) -> Response:
    """Return a case's picture for the wall, with the contours of the label of a tag."""
    with _answering():
        file = _cases(request).wall_picture(image_id, tag)
    return FileResponse(file, media_type="image/png", headers=KEEP)


@router.get("/pictures/{image_id}/{plane}/{index}", summary="A slice of a case, as PNG", dependencies=[reader])
def slice_picture(
    request: Request,
    image_id: str,
    plane: Plane,
    index: int,
    tag: str | None = None,
    contours: bool = True,
    level: Annotated[int, Query(ge=-100, le=300)] = 50,
    width: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Return a slice; ``level`` and ``width`` of its window are in percent of the scan's normal range of grey."""
    with _answering():
        picture = _cases(request).slice_picture(image_id, tag, plane.value, index, contours, Grey(level, width))
    return Response(picture, media_type="image/png", headers=KEEP)


def _cases(request: Request) -> ReviewCases:
    cases: ReviewCases = request.app.state.crossmoda_cases
    return cases


@contextmanager
def _answering() -> Iterator[None]:
    with answering_client_errors(422):
        try:
            yield
        except UnknownCaseError as error:
            raise HTTPException(404, str(error)) from error
