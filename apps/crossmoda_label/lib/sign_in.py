"""The ways to sign in: 3D Slicer's requests for a token, and a form for pages, which sets a cookie.

The cookie can be read by no script and is sent by no page of another site; it stands for a person who has signed in,
and says nothing of them or of their password.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from monailabel.config import settings

from lib.access import (
    LONGEST_NAME,
    LONGEST_PASSWORD,
    SIGNED_IN_SECONDS,
    Access,
    cookie_name,
    page_token,
    requesting_user,
)
from lib.plain_pages import page as plain_page

FIRST_PAGE = "/crossmoda/triage"
_OWN_PATH = re.compile(r"(/[A-Za-z0-9_.+-]+)*/?")  # of this server: no //elsewhere, no query

Name = Annotated[str, Form(max_length=LONGEST_NAME)]
Password = Annotated[str, Form(max_length=LONGEST_PASSWORD)]


def serve_sign_in(app: FastAPI, access: Access) -> None:
    """Answer at ``/auth/...``, in place of MONAI Label where it has OpenID Connect, and at ``/crossmoda/login``."""
    known = len(app.router.routes)
    app.include_router(_for_clients(access), prefix=settings.MONAI_LABEL_API_STR)
    app.include_router(_for_pages(access))
    routes = app.router.routes
    routes[:] = routes[known:] + routes[:known]


def _for_clients(access: Access) -> APIRouter:
    router = APIRouter(prefix="/auth", include_in_schema=False)

    @router.get("/")
    def asked() -> dict[str, Any]:
        about = {"client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, "realm": settings.MONAI_LABEL_AUTH_REALM_URI}
        return {"enabled": access.are_asked(), **(about if settings.MONAI_LABEL_AUTH_ENABLE else {})}

    @router.post("/token")
    async def token(request: Request, username: Name, password: Password) -> dict[str, str]:
        if not access.are_asked():
            raise HTTPException(404, "nobody is asked for a password here; go on without a token")
        own, signed_in = await access.sign_in(username, password, _address_of(request))
        if signed_in.access_token:
            access.sign_out(own)
        return {"access_token": signed_in.access_token or own, "token_type": "Bearer"}

    @router.get("/token/valid")
    def valid() -> dict[str, str]:
        user = requesting_user()
        if user is None and access.are_asked():
            raise HTTPException(401, "the token has expired; sign in again", {"WWW-Authenticate": "Bearer"})
        return {"username": user.name, "role": user.role} if user else {}

    return router


def _for_pages(access: Access) -> APIRouter:
    router = APIRouter(prefix="/crossmoda", include_in_schema=False)

    @router.get("/login")
    def form(request: Request, page: str = FIRST_PAGE) -> Response:
        if requesting_user() is not None or not access.are_asked():
            return _to(request, _own(page))
        return _form(_own(page))

    @router.post("/login")
    async def sign_in(
        request: Request, username: Name, password: Password, page: Annotated[str, Form()] = FIRST_PAGE
    ) -> Response:
        if not access.are_asked():
            return _to(request, _own(page))
        access.sign_out(page_token(request.scope))
        try:
            token, _ = await access.sign_in(username, password, _address_of(request))
        except HTTPException as error:
            return _form(_own(page), username, error)
        answer = _to(request, _own(page))
        answer.set_cookie(cookie_name(request.scope), token, max_age=int(SIGNED_IN_SECONDS), **_shape(request))
        return answer

    @router.post("/logout")
    def sign_out(request: Request) -> Response:
        access.sign_out(page_token(request.scope))
        answer = _to(request, "/crossmoda/login")
        answer.delete_cookie(cookie_name(request.scope), **_shape(request))
        return answer

    @router.get("/who")
    def who() -> Response:
        user = requesting_user()
        about = {"name": user.name, "role": user.role} if user else {"name": "", "role": ""}
        return JSONResponse(about, headers={"Cache-Control": "no-store"})

    return router


def _form(page: str, name: str = "", problem: HTTPException | None = None) -> Response:
    status = problem.status_code if problem else 200
    return plain_page("login.html", status, page=page, name=name, problem=problem.detail if problem else "")


def _own(path: str) -> str:
    return path if path and _OWN_PATH.fullmatch(path) else FIRST_PAGE


def _to(request: Request, path: str) -> RedirectResponse:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}", 303)


def _shape(request: Request) -> dict[str, Any]:
    """Return how the cookie is kept: from scripts, from other sites, and from connections in the clear."""
    path = request.scope.get("root_path") or "/"
    return {"path": path, "httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}


def _address_of(request: Request) -> str:
    return request.client.host if request.client else ""
