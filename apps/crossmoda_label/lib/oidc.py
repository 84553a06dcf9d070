"""The people of an identity server such as Keycloak, by OpenID Connect.

The settings are MONAI Label's own (``MONAI_LABEL_AUTH_...``), and so is the way in: a client sends name and password,
and the identity server answers with a token. What MONAI Label leaves unchecked is checked here: the issuer, for whom
the token was made, that it expires at all; the key is found by its number in the server's key set, so keys may change.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import requests
from fastapi import HTTPException
from monailabel.config import settings

from crossmoda.self_training.review_access import ANNOTATOR, ENGINEER, REVIEWER, VIEWER, User
from lib.people import SignedIn

logger = logging.getLogger(__name__)

# Of key pairs alone: a token signed with a shared secret could be made by whoever knows the public key.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_SECONDS = 10.0  # by which two machines' clocks may differ
KNOWN_SECONDS = 600.0  # for how long the identity server's description is kept
AWAY_SECONDS = 5.0  # for how long a server that did not answer is not asked again
INVALID_TOKENS = {  # what PyJWT raises -> what is said
    jwt.ExpiredSignatureError: "it has expired",
    jwt.InvalidIssuerError: "another server issued it",
    jwt.MissingRequiredClaimError: "it lacks issuer, user or end",
}


@dataclass(frozen=True)
class Provider:
    """What an identity server says of itself.

    Args:
        issuer: as its tokens name it.
        token_endpoint: where names and passwords are sent.
        keys: its public keys.
        read_at: monotonic time.
    """

    issuer: str
    token_endpoint: str
    keys: jwt.PyJWKClient
    read_at: float


class OpenIdConnect:
    """The people of the identity server that MONAI Label's settings name."""

    at_once = 8

    def __init__(self) -> None:
        self._known: Provider | None = None
        self._away_until = 0.0
        self._asking = threading.Lock()

    def are_asked(self) -> bool:
        """Tell whether anybody is asked who they are: everybody is."""
        return True

    def sign_in(self, name: str, password: str) -> SignedIn:
        """Return who has this name and password at the identity server."""
        return self._granted({"grant_type": "password", "username": name, "password": password})

    def renewed(self, signed_in: SignedIn) -> SignedIn | None:
        """Return who has signed in, with a new token where theirs has expired; None where there is none for them."""
        if signed_in.until > time.time():
            return signed_in
        if not signed_in.refresh_token:
            return None
        try:
            return self._granted({"grant_type": "refresh_token", "refresh_token": signed_in.refresh_token})
        except HTTPException as error:
            if error.status_code == 401:
                return None
            raise

    def user_of_token(self, token: str) -> User:
        """Return who a token names."""
        return self._read(token)[0]

    def _granted(self, grant: Mapping[str, str]) -> SignedIn:
        data = {"client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, "scope": "openid", **grant}
        address = self._provider().token_endpoint
        try:
            answer = requests.post(address, data=data, timeout=settings.MONAI_LABEL_AUTH_TIMEOUT, allow_redirects=False)
            content = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise _away() from error
        content = content if isinstance(content, dict) else {}
        if content.get("error") == "invalid_grant":
            raise HTTPException(401, "wrong name or password")
        if answer.status_code != 200 or not isinstance(content.get("access_token"), str):
            reason = re.sub(r"[^a-z_]", "", str(content.get("error")))[:40]
            logger.warning("the identity server grants no token: status %s, %s", answer.status_code, reason)
            raise HTTPException(503, f"the identity server grants this server's client no token ({reason})")
        user, until = self._read(content["access_token"])
        return SignedIn(
            user,
            access_token=content["access_token"],
            refresh_token=str(content.get("refresh_token") or ""),
            until=until,
        )

    def _read(self, token: str) -> tuple[User, float]:
        """Return who a token names and when it expires, in seconds since 1970."""
        provider = self._provider()
        try:
            claims = jwt.decode(
                token,
                provider.keys.get_signing_key_from_jwt(token),
                algorithms=ALGORITHMS,
                issuer=provider.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss"], "verify_aud": False},  # see below
            )
        except jwt.PyJWKClientConnectionError as error:
            raise _away() from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid(INVALID_TOKENS.get(type(error), "its signature or form is not valid")) from error
        _require_made_for_us(claims)
        return User(_name_in(claims), _role_in(claims)), float(claims["exp"])

    def _provider(self) -> Provider:
        with self._asking:
            now = time.monotonic()
            if self._known is None or now - self._known.read_at > KNOWN_SECONDS:
                if now < self._away_until:
                    raise _away()
                try:
                    self._known = _described(now)
                except (requests.RequestException, jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
                    logger.warning("no OpenID Connect at MONAI_LABEL_AUTH_REALM_URI: %s", type(error).__name__)
                    self._away_until = now + AWAY_SECONDS
                    raise _away() from error
            return self._known


def _described(now: float) -> Provider:
    """Return what the identity server says of itself."""
    address = f"{settings.MONAI_LABEL_AUTH_REALM_URI.rstrip('/')}/.well-known/openid-configuration"
    answer = requests.get(address, timeout=settings.MONAI_LABEL_AUTH_TIMEOUT)
    answer.raise_for_status()
    said = answer.json()
    keys = jwt.PyJWKClient(str(said["jwks_uri"]), timeout=settings.MONAI_LABEL_AUTH_TIMEOUT)
    return Provider(str(said["issuer"]), str(said["token_endpoint"]), keys, now)


def _require_made_for_us(claims: Mapping[str, Any]) -> None:
    """Refuse tokens of other applications of the same people.

    A token names whom it is made for (``aud``); Keycloak names there whom the application may ask, and the application
    itself as ``azp``.
    """
    meant = claims.get("aud") or []
    meant = [meant] if isinstance(meant, str) else meant
    ours = settings.MONAI_LABEL_AUTH_CLIENT_ID
    if ours not in meant and claims.get("azp") != ours:
        raise _invalid("it was made for another application")


def _name_in(claims: Mapping[str, Any]) -> str:
    name = claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise _invalid(f"it lacks a name ({settings.MONAI_LABEL_AUTH_TOKEN_USERNAME})")
    return name


def _role_in(claims: Mapping[str, Any]) -> str:
    """Return the highest of our roles that a token's roles give."""
    found: Any = claims
    for key in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        found = found.get(key) if isinstance(found, Mapping) else None
    roles = {
        settings.MONAI_LABEL_AUTH_ROLE_ADMIN: ENGINEER,
        settings.MONAI_LABEL_AUTH_ROLE_REVIEWER: REVIEWER,
        settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR: ANNOTATOR,
        settings.MONAI_LABEL_AUTH_ROLE_USER: VIEWER,
    }
    role = next((ours for theirs, ours in roles.items() if isinstance(found, list) and theirs in found), None)
    if role is None:
        raise HTTPException(403, f"the identity server gives you none of the roles {', '.join(roles)}; ask its keeper")
    return role


def _invalid(reason: str) -> HTTPException:
    return HTTPException(401, f"the token is not valid here: {reason}; sign in again")


def _away() -> HTTPException:
    return HTTPException(503, "the identity server does not answer; try again, or tell the server's engineer")
