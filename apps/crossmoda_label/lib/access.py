"""Who a request comes from, and what its role may ask for.

Three ways: nobody is asked and only this machine is answered; or everybody is asked for a password of the file of
users; or for one that MONAI Label's own OpenID Connect knows. A password comes by HTTP Basic, or a client fetches a
token with it (3D Slicer), or a form of ours sets a cookie (pages).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user import auth
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection

from crossmoda.self_training.review_access import ANNOTATOR, ENGINEER, REVIEWER, VIEWER, User, is_loopback
from lib.answers import answering_client_errors
from lib.oidc import OpenIdConnect
from lib.people import Passwords, People, SignedIn

ANYONE = "anyone"
NOT_WITHOUT_PASSWORDS = "engineer, where there are passwords"
SIGNED_IN_SECONDS = 12 * 3600.0
SCAN_SECONDS = 300.0  # for how long a signed-in Slicer may fetch scans, which it does without its token
WRONG_PASSWORDS, WRONG_SECONDS = 10, 300.0
LONGEST_NAME, LONGEST_PASSWORD = 200, 1000  # characters
SIGN_IN_PAGE = "/crossmoda/login"
READING = ("GET", "HEAD", "OPTIONS")
BASIC = {"WWW-Authenticate": 'Basic realm="crossMoDA review", charset="UTF-8"'}

# The first rule that fits a request says which role it needs; what fits none is for engineers.
RULES = tuple(
    (re.compile(methods), re.compile(path), role)
    for methods, path, role in (
        (".*", r"/auth(/.*)?|/favicon\.ico|/crossmoda/(login|logout|who|static/.*)", ANYONE),
        (".*", r"/logs(/.*)?", NOT_WITHOUT_PASSWORDS),
        (".*", r"/model(/.*)?|/reload|/datastore/dataset", ENGINEER),
        ("POST|DELETE", r"/train(/.*)?|/batch(/.*)?", ENGINEER),
        ("DELETE", r"/datastore(/.*)?", REVIEWER),
        ("PUT", r"/datastore/(updatelabelinfo|label/info|image/info)", REVIEWER),
        ("POST|DELETE", r"/scoring(/.*)?", REVIEWER),
        ("POST", r"/proxy/.*", REVIEWER),
        ("POST|PUT", r"/crossmoda/.*", REVIEWER),
        ("GET|HEAD|OPTIONS", r"/.*", VIEWER),
        ("POST", r"/infer/.*", VIEWER),
        ("PUT|DELETE", r"/session/.*", VIEWER),
        ("POST", r"/activelearning/.*", ANNOTATOR),
        ("PUT", r"/datastore/(|label|image)", ANNOTATOR),
    )
)

_requesting: ContextVar[User | None] = ContextVar("requesting", default=None)
_asked_from: ContextVar[str] = ContextVar("asked_from", default="")


def requesting_user() -> User | None:
    """Return who made the request that is being answered; None where nobody is asked."""
    return _requesting.get()


def who_asks() -> str:
    """Return who made the request that is being answered, as well as can be told.

    Where nobody signs in, this is the address that it came from, and whom it names.
    """
    user = requesting_user()
    return user.name if user is not None else _asked_from.get()


def role_needed(method: str, path: str) -> str:
    """Return the role that a request needs, or ``ANYONE``."""
    return next(
        (role for methods, paths, role in RULES if methods.fullmatch(method) and paths.fullmatch(path)), ENGINEER
    )


class Access:
    """Find out who a request comes from and refuse what this person may not do.

    Args:
        file: of users; nobody is asked as long as it holds none. It does not count where MONAI Label's OpenID Connect
            is switched on.
    """

    def __init__(self, file: Path) -> None:
        self.people: People = OpenIdConnect() if settings.MONAI_LABEL_AUTH_ENABLE else Passwords(file)
        self._sessions: dict[str, tuple[float, SignedIn]] = {}
        self._known: dict[bytes, SignedIn] = {}  # passwords known to be right, so that each is checked slowly once
        self._key = secrets.token_bytes(32)
        self._scan_until: dict[str, tuple[float, User]] = {}
        self._wrong: dict[str, list[float]] = {}
        self._checking = CapacityLimiter(self.people.at_once)

    def are_asked(self) -> bool:
        """Tell whether anybody is asked who they are."""
        with answering_client_errors(503):
            return self.people.are_asked()

    async def admit(self, scope: dict[str, Any], path: str) -> None:
        """Let a request pass, or refuse it; ``requesting_user`` then tells who asks.

        Args:
            scope: of ASGI.
            path: of the request, below the server's root.

        Raises:
            HTTPException: 401 without valid credentials, 403 without the role, 429 after too many wrong passwords, 503
                where nobody can tell who it is; 303 leads a person without credentials to the form.
        """
        needed = role_needed(scope["method"], path)
        _asked_from.set(_said_of_client(scope))
        _requesting.set(None)
        if not self.are_asked():
            _require_this_machine(scope)
            if needed == NOT_WITHOUT_PASSWORDS:
                raise HTTPException(403, "the log is shown to engineers once there are passwords (add_user)")
            return
        user = await self._user_of(scope, path, needed)
        _requesting.set(user)
        if needed == ANYONE:
            return
        if user is None:
            raise _unauthorized(scope)
        needed = ENGINEER if needed == NOT_WITHOUT_PASSWORDS else needed
        if not user.may(needed):
            raise HTTPException(403, f"{user.name} is {user.role}; this needs the role {needed}")

    async def sign_in(self, name: str, password: str, address: str) -> tuple[str, SignedIn]:
        """Return a token that stands for a person who knows the password, for ``SIGNED_IN_SECONDS``, and who it is.

        Raises:
            HTTPException: 401 for a wrong name or password, 429 after too many.
        """
        signed_in = await self._with_password(name, password, address)
        now = time.monotonic()
        self._sessions = {token: entry for token, entry in self._sessions.items() if entry[0] > now}
        token = secrets.token_urlsafe(32)
        self._sessions[token] = (now + SIGNED_IN_SECONDS, signed_in)
        return token, signed_in

    def sign_out(self, token: str) -> None:
        """Forget a token."""
        self._sessions.pop(token, None)

    async def _user_of(self, scope: dict[str, Any], path: str, needed: str) -> User | None:
        headers, address = Headers(scope=scope), _address_of(scope)
        kind, _, value = headers.get("authorization", "").partition(" ")
        cookie = page_token(scope)
        try:
            if kind.lower() == "basic":
                user: User | None = (await self._with_password(*_decoded(value), address)).user
            elif kind.lower() == "bearer":
                user = await self._user_of_token(value)
            elif cookie:
                user = await self._user_of_session(cookie)
                if user is not None and scope["method"] not in READING and "origin" not in headers:
                    raise HTTPException(403, "sent by no page of this server; sign in with a token instead")
            else:
                user = self._user_at(address) if (scope["method"], path) == ("GET", "/datastore/image") else None
        except HTTPException as error:
            if error.status_code != 401:
                raise
            if needed == ANYONE:
                return None
            raise _unauthorized(scope, error.detail) from error
        if user is not None and kind:
            self._scan_until[address] = (time.monotonic() + SCAN_SECONDS, user)
        return user

    async def _user_of_token(self, token: str) -> User | None:
        if token in self._sessions:
            return await self._user_of_session(token)
        return await to_thread.run_sync(self.people.user_of_token, token, limiter=self._checking)

    async def _user_of_session(self, token: str) -> User | None:
        until, signed_in = self._sessions.get(token, (0.0, None))
        if signed_in is None or until <= time.monotonic():
            return None
        renewed = await to_thread.run_sync(self.people.renewed, signed_in, limiter=self._checking)
        if renewed is None:
            self.sign_out(token)
            return None
        if token in self._sessions:  # not signed out meanwhile
            self._sessions[token] = (until, renewed)
        return renewed.user

    def _user_at(self, address: str) -> User | None:
        """Return who was signed in at an address a moment ago: 3D Slicer fetches scans without its token."""
        until, user = self._scan_until.get(address, (0.0, None))
        return user if until > time.monotonic() else None

    async def _with_password(self, name: str, password: str, address: str) -> SignedIn:
        if not (0 < len(name) <= LONGEST_NAME and 0 < len(password) <= LONGEST_PASSWORD):
            raise HTTPException(401, "wrong name or password")
        key = hmac.digest(self._key, f"{name}\0{password}".encode(errors="replace"), hashlib.sha256)
        if key in self._known:
            known = await to_thread.run_sync(self.people.renewed, self._known[key], limiter=self._checking)
            if known is not None:
                self._known[key] = known
                return known
            self._known.pop(key, None)
        moment = self._count_try(address)  # before the slow check, so that tries at the same time are counted too
        try:
            self._known[key] = await to_thread.run_sync(self.people.sign_in, name, password, limiter=self._checking)
        except HTTPException as error:
            if error.status_code < 500:
                raise
            self._forgive_try(address, moment)  # nobody could tell whether it was wrong
            raise
        self._forgive_try(address, moment)
        return self._known[key]

    def _forgive_try(self, address: str, moment: float) -> None:
        self._wrong[address] = [other for other in self._wrong.get(address, []) if other != moment]

    def _count_try(self, address: str) -> float:
        """Count a password as wrong until it turns out to be right, and return when it was tried."""
        now = time.monotonic()
        for known in list(self._wrong):
            self._wrong[known] = [moment for moment in self._wrong[known] if moment > now - WRONG_SECONDS]
            if not self._wrong[known]:
                del self._wrong[known]
        tries = self._wrong.setdefault(address, [])
        if len(tries) >= WRONG_PASSWORDS:
            raise HTTPException(429, f"too many wrong passwords; wait {WRONG_SECONDS / 60:.0f} minutes")
        tries.append(now)
        return now


def tell_monai_who_asks(app: FastAPI) -> None:
    """Let MONAI Label's endpoints know who asks; without this, everybody is its user ``admin``.

    Which role may do what has been decided before (``RULES``), the same whichever way a person signed in.
    """

    async def current_user() -> auth.User:
        asking = requesting_user()
        return auth.User(username=asking.name if asking else "", roles=auth.DEFAULT_USER.roles)

    app.dependency_overrides[auth.get_current_user] = current_user


def cookie_name(scope: dict[str, Any]) -> str:
    """Return the name of the cookie by which a page is known: two servers on one machine share all cookies."""
    return f"crossmoda_session_{(scope.get('server') or ('', 0))[1]}"


def page_token(scope: dict[str, Any]) -> str:
    """Return the token in a request's cookie; empty where there is none."""
    return HTTPConnection(scope).cookies.get(cookie_name(scope), "")


def _address_of(scope: dict[str, Any]) -> str:
    return str((scope.get("client") or ("",))[0])


def _said_of_client(scope: dict[str, Any]) -> str:
    """Return where a request comes from, and whom it names, which nobody has checked."""
    query = QueryParams(scope.get("query_string", b""))
    named = query.get("client_id") or query.get("user") or ""
    shown = "".join(letter for letter in named if letter.isprintable())[:80]
    return f"{shown or 'somebody'} at {_address_of(scope) or 'an unknown address'}, not signed in"


def _require_this_machine(scope: dict[str, Any]) -> None:
    """Refuse other machines, and browsers that reach this one by another name, as long as nobody is asked."""
    ends = [str(end[0]) for end in (scope.get("client"), scope.get("server")) if end]
    host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "localhost"))
    if not all(is_loopback(end) for end in [*ends, host]):
        raise HTTPException(403, "only this machine is answered as long as there are no passwords; see add_user")


def _decoded(value: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise HTTPException(401, "the Authorization header cannot be read") from error
    return name, password


def _unauthorized(
    scope: dict[str, Any], reason: str = "sign in with the name and the password that the server's engineer gave you"
) -> HTTPException:
    """Return what answers a request without credentials: a person's browser is led to the form, its pages are told."""
    headers = Headers(scope=scope)
    by_page = "sec-fetch-mode" in headers
    if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        path = f"{scope.get('root_path', '')}{SIGN_IN_PAGE}?{urlencode({'page': scope['path']})}"
        return HTTPException(303, "sign in first", {"Location": path})
    return HTTPException(401, reason, {"WWW-Authenticate": "Bearer"} if by_page else BASIC)  # no dialogue in a page
