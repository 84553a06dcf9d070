"""Who a request comes from, and what its role may ask for.

Three ways: nobody is asked and only this machine is answered; or everybody is asked for a password of the file of users
(HTTP Basic, or the token that 3D Slicer fetches with it); or MONAI Label's own OpenID Connect decides.
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

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Form, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user import auth
from starlette.datastructures import Headers

from crossmoda.self_training.review_access import (
    ANNOTATOR,
    ENGINEER,
    NOBODY,
    REVIEWER,
    Record,
    User,
    is_loopback,
    is_password_of,
    read_users,
)
from lib.answers import answering_client_errors

ANYONE = "anyone"
NOT_WITHOUT_PASSWORDS = "engineer, where there are passwords"
SIGNED_IN_SECONDS = 12 * 3600.0
SCAN_SECONDS = 300.0  # for how long a signed-in Slicer may fetch scans, which it does without its token
WRONG_PASSWORDS, WRONG_SECONDS = 10, 300.0

# The first rule that fits a request says which role it needs; what fits none is for engineers.
RULES = tuple(
    (re.compile(methods), re.compile(path), role)
    for methods, path, role in (
        (".*", r"/auth(/.*)?|/favicon\.ico", ANYONE),
        (".*", r"/logs(/.*)?", NOT_WITHOUT_PASSWORDS),
        (".*", r"/model(/.*)?|/reload|/datastore/dataset", ENGINEER),
        ("POST|DELETE", r"/train(/.*)?|/batch(/.*)?", ENGINEER),
        ("DELETE", r"/datastore(/.*)?", REVIEWER),
        ("PUT", r"/datastore/(updatelabelinfo|label/info|image/info)", REVIEWER),
        ("POST|DELETE", r"/scoring(/.*)?", REVIEWER),
        ("POST", r"/proxy/.*", REVIEWER),
        ("POST|PUT", r"/crossmoda/.*", REVIEWER),
        ("GET|HEAD|OPTIONS", r"/.*", ANNOTATOR),
        ("POST", r"/(infer|activelearning)/.*", ANNOTATOR),
        ("PUT", r"/datastore/(|label|image)", ANNOTATOR),
        ("PUT|DELETE", r"/session/.*", ANNOTATOR),
    )
)

_OIDC_ROLES = {
    settings.MONAI_LABEL_AUTH_ROLE_ADMIN: ENGINEER,
    settings.MONAI_LABEL_AUTH_ROLE_REVIEWER: REVIEWER,
    settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR: ANNOTATOR,
}
_requesting: ContextVar[User | None] = ContextVar("requesting", default=None)


def requesting_user() -> User | None:
    """Return who made the request that is being answered; None where nobody is asked."""
    return _requesting.get()


def role_needed(method: str, path: str) -> str:
    """Return the role that a request needs, or ``ANYONE``."""
    return next(
        (role for methods, paths, role in RULES if methods.fullmatch(method) and paths.fullmatch(path)), ENGINEER
    )


class Access:
    """Find out who a request comes from and refuse what this person may not do.

    Args:
        file: of users, read again whenever it changes; nobody is asked as long as it holds none.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read: tuple[int, dict[str, Record]] = (-1, {})
        self._tokens: dict[str, tuple[float, str, Record]] = {}
        self._seen: dict[bytes, Record] = {}  # passwords known to be right, so that each is hashed slowly once
        self._key = secrets.token_bytes(32)
        self._scan_until: dict[str, tuple[float, User]] = {}
        self._wrong: dict[str, list[float]] = {}
        self._hashing = CapacityLimiter(2)

    def users(self) -> dict[str, Record]:
        """Return name -> record as the file says now."""
        state = self.file.stat().st_mtime_ns if self.file.is_file() else 0
        if self._read[0] != state:
            self._read = (state, read_users(self.file))
        return self._read[1]

    async def admit(self, scope: dict[str, Any], path: str) -> None:
        """Let a request pass, or refuse it; ``requesting_user`` then tells who asks.

        Args:
            scope: of ASGI.
            path: of the request, below the server's root.

        Raises:
            HTTPException: 401 without valid credentials, 403 without the role, 429 after too many wrong passwords.
        """
        needed = role_needed(scope["method"], path)
        if settings.MONAI_LABEL_AUTH_ENABLE and not path.startswith("/crossmoda/"):
            return  # each of MONAI Label's endpoints asks for its own role
        user = await self._user_of(scope, path, needed)
        _requesting.set(user)
        if needed == ANYONE:
            return
        if user is None:
            _require_this_machine(scope)
            if needed == NOT_WITHOUT_PASSWORDS:
                raise HTTPException(403, "the log is shown to engineers once there are passwords (add_user)")
        elif not user.may(ENGINEER if needed == NOT_WITHOUT_PASSWORDS else needed):
            raise HTTPException(403, f"{user.name} is {user.role}; this needs the role {needed.split(',')[0]}")

    async def sign_in(self, name: str, password: str, address: str) -> str:
        """Return a token for a person who knows the password.

        Raises:
            HTTPException: 401 for a wrong name or password, 429 after too many.
        """
        record = await self._record_of(name, password, address)
        now = time.monotonic()
        self._tokens = {token: entry for token, entry in self._tokens.items() if entry[0] > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = (now + SIGNED_IN_SECONDS, name, record)
        return token

    async def _user_of(self, scope: dict[str, Any], path: str, needed: str) -> User | None:
        kind, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
        if settings.MONAI_LABEL_AUTH_ENABLE:
            return await to_thread.run_sync(_oidc_user, value)
        with answering_client_errors(503):
            if not self.users():
                return None
        address = str((scope.get("client") or ("",))[0])
        user = None
        if kind.lower() == "basic":
            name, password = _decoded(value)
            user = User(name, (await self._record_of(name, password, address)).role)
        elif kind.lower() == "bearer":
            user = self._user_of_token(value)
        elif scope["method"] == "GET" and path == "/datastore/image":
            user = self._user_at(address)
        if user is None and needed != ANYONE:
            raise _unauthorized("sign in with the name and the password that the server's engineer gave you")
        if user is not None and kind:
            self._scan_until[address] = (time.monotonic() + SCAN_SECONDS, user)
        return user

    def _user_of_token(self, token: str) -> User | None:
        until, name, record = self._tokens.get(token, (0.0, "", NOBODY))
        if until <= time.monotonic() or self.users().get(name) != record:  # changed or deleted in the meantime
            return None
        return User(name, record.role)

    def _user_at(self, address: str) -> User | None:
        """Return who was signed in at an address a moment ago: 3D Slicer fetches scans without its token."""
        until, user = self._scan_until.get(address, (0.0, None))
        return user if until > time.monotonic() else None

    async def _record_of(self, name: str, password: str, address: str) -> Record:
        record = self.users().get(name, NOBODY)
        seen = hmac.digest(self._key, f"{name}\0{password}".encode(), hashlib.sha256)
        if record is not NOBODY and self._seen.get(seen) == record:
            return record
        now = time.monotonic()
        wrong = [moment for moment in self._wrong.get(address, []) if moment > now - WRONG_SECONDS]
        if len(wrong) >= WRONG_PASSWORDS:
            raise HTTPException(429, f"too many wrong passwords; wait {WRONG_SECONDS / 60:.0f} minutes")
        right = await to_thread.run_sync(is_password_of, record, password, limiter=self._hashing)
        if not right or record is NOBODY:
            self._wrong[address] = [*wrong, now]
            raise _unauthorized("wrong name or password")
        self._seen[seen] = record
        return record


def serve_sign_in(app: FastAPI, access: Access) -> None:
    """Answer the requests by which 3D Slicer's module signs in, as MONAI Label does where it has OpenID Connect."""
    if settings.MONAI_LABEL_AUTH_ENABLE:
        return

    @app.get("/auth/", include_in_schema=False)
    def asked() -> dict[str, bool]:
        return {"enabled": bool(access.users())}

    @app.post("/auth/token", include_in_schema=False)
    async def token(request: Request, username: str = Form(...), password: str = Form(...)) -> dict[str, str]:
        address = request.client.host if request.client else ""
        return {"access_token": await access.sign_in(username, password, address), "token_type": "Bearer"}

    @app.get("/auth/token/valid", include_in_schema=False)
    def valid() -> dict[str, str]:
        user = requesting_user()
        if user is None and access.users():
            raise _unauthorized("the token has expired; sign in again")
        return {"username": user.name, "role": user.role} if user else {}


def tell_monai_who_asks(app: FastAPI) -> None:
    """Let MONAI Label's endpoints know who asks; without this, everybody is its user ``admin``.

    Its check of OpenID Connect tokens names no algorithm, which PyJWT has refused since 2.0; those of key pairs are
    added here.
    """
    decode = auth.jwt.decode
    algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]

    class Tokens:
        @staticmethod
        def decode(token: str, key: str, **options: Any) -> Any:
            return decode(token, key, **{"algorithms": algorithms, **options})

    auth.jwt = Tokens

    async def current_user(request: Request) -> auth.User:
        if settings.MONAI_LABEL_AUTH_ENABLE:
            user = await auth.get_current_user(await auth.oauth2_scheme(request))
            _requesting.set(User(user.username, _oidc_role(user)))
            return user
        asking = requesting_user()
        return auth.User(username=asking.name if asking else "", roles=auth.DEFAULT_USER.roles)

    app.dependency_overrides[auth.get_current_user] = current_user


def _oidc_user(token: str) -> User:
    try:
        user = auth.from_token(token)
    except auth.InvalidTokenError as error:
        raise HTTPException(401, "sign in with OpenID Connect", {"WWW-Authenticate": "Bearer"}) from error
    return User(user.username, _oidc_role(user))


def _oidc_role(user: Any) -> str:
    return next((role for name, role in _OIDC_ROLES.items() if name in user.roles), ANNOTATOR)


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
        raise _unauthorized("the Authorization header cannot be read") from error
    return name, password


def _unauthorized(reason: str) -> HTTPException:
    return HTTPException(401, reason, {"WWW-Authenticate": 'Basic realm="crossMoDA review", charset="UTF-8"'})
