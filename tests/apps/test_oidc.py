"""Tokens and passwords of OpenID Connect, checked against a live identity server on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import HTTPException
from monailabel.config import settings

from .identity_server import IdentityServer, identity_server

PEOPLE = {
    "vera": ("viewer's secret", ["monailabel-user"]),
    "anna": ("annotator's secret", ["monailabel-user", "monailabel-annotator"]),
    "berg": ("reviewer's secret", ["monailabel-reviewer"]),
    "eve": ("engineer's secret", ["offline_access", "monailabel-admin"]),
    "otto": ("somebody's secret", ["offline_access"]),
}


pytestmark = pytest.mark.usefixtures("app_folder")


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityServer]:
    with identity_server(dict(PEOPLE)) as server:
        monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", server.url)
        yield server


@pytest.fixture
def people(identity: IdentityServer) -> Any:
    return importlib.import_module("lib.oidc").OpenIdConnect()


@pytest.mark.parametrize(
    ("name", "role"), [("vera", "viewer"), ("anna", "annotator"), ("berg", "reviewer"), ("eve", "engineer")]
)
def test_monai_label_s_roles_are_ours(identity: IdentityServer, people: Any, name: str, role: str) -> None:
    user = people.user_of_token(identity.token(name))
    assert (user.name, user.role) == (name, role)


def test_the_client_may_stand_among_those_whom_a_token_is_for(identity: IdentityServer, people: Any) -> None:
    assert people.user_of_token(identity.token("anna", "azp", aud=["account", "monailabel-app"])).name == "anna"
    assert people.user_of_token(identity.token("anna", "azp", aud="monailabel-app")).name == "anna"


def refused(people: Any, token: str) -> tuple[int, str]:
    with pytest.raises(HTTPException) as answer:
        people.user_of_token(token)
    return answer.value.status_code, str(answer.value.detail)


@pytest.mark.parametrize(
    ("without", "changed", "reason"),
    [
        ([], {"iss": "https://elsewhere.example/realms/review"}, "another server issued it"),
        (["iss"], {}, "it lacks issuer"),
        ([], {"azp": "other-app"}, "another application"),
        (["azp"], {"aud": ["account", "other-app"]}, "another application"),
        (["azp", "aud"], {}, "another application"),
        ([], {"exp": time.time() - 60}, "it has expired"),
        (["exp"], {}, "it lacks issuer, user or end"),
        ([], {"nbf": time.time() + 3600}, "not valid"),
        (["preferred_username"], {}, "it lacks a name (preferred_username)"),
        ([], {"preferred_username": ["anna"]}, "it lacks a name"),
        ([], {"preferred_username": "anna\n"}, "it lacks a name"),
    ],
)
def test_tokens_that_were_not_made_for_us_now_are_refused(
    identity: IdentityServer, people: Any, without: list[str], changed: dict[str, Any], reason: str
) -> None:
    status, said = refused(people, identity.token("anna", *without, **changed))
    assert (status, reason in said) == (401, True), said


@pytest.mark.parametrize("roles", [None, [], {}, ["admin", "engineer"], "monailabel-admin"])
def test_who_has_none_of_the_roles_is_refused_with_their_names(
    identity: IdentityServer, people: Any, roles: Any
) -> None:
    status, said = refused(people, identity.token("anna", realm_access={"roles": roles} if roles != {} else roles))
    assert (status, "none of the roles monailabel-admin, monailabel-reviewer" in said) == (403, True)


def signed_by_public_key(identity: IdentityServer) -> str:
    """Return a token whose shared secret is the text of the public key, which everybody knows."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = identity.key.public_key().public_bytes(*form)
    parts = [{"alg": "HS256", "kid": identity.key_id}, identity.claims("eve")]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(public, text, hashlib.sha256)).rstrip(b"=")
    return (text + b"." + signature).decode()


def test_unsigned_and_forged_tokens_are_refused(identity: IdentityServer, people: Any) -> None:
    claims, mine = identity.claims("eve"), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    known = {"kid": identity.key_id}
    header, _, signature = identity.token("vera").split(".")
    payload = jwt.encode(claims, mine, algorithm="RS256").split(".")[1]
    forged = {
        "unsigned": jwt.encode(claims, "", algorithm="none", headers=known),
        "by another's key": jwt.encode(claims, mine, algorithm="RS256", headers=known),
        "by a key of no number": jwt.encode(claims, identity.key, algorithm="RS256"),
        "by a key that is not published": jwt.encode(claims, mine, algorithm="RS256", headers={"kid": "mine"}),
        "by the public key as a secret": signed_by_public_key(identity),
        "with claims exchanged": f"{header}.{payload}.{signature}",
        "of a thousand brackets": f"{base64.urlsafe_b64encode(b'[' * 30_000).decode()}.{payload}.{signature}",
        "that is no token": "nonsense",
        "that is empty": "",
        "of odd letters": "é.é.é",
    }
    answers = {what: refused(people, token) for what, token in forged.items()}
    assert {what: status for what, (status, _) in answers.items()} == dict.fromkeys(forged, 401)


def test_a_changed_key_is_fetched_and_unknown_ones_do_not_flood_the_identity_server(
    identity: IdentityServer, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = identity.token("anna")
    people.user_of_token(former)
    identity.change_key()
    unknown = jwt.encode(identity.claims("eve"), identity.key, algorithm="RS256", headers={"kid": "?"})
    for _ in range(20):
        refused(people, unknown)
    assert len(identity.asked) <= 3  # its description, and its keys at most twice
    people._known.keys._last_successful_fetch -= 60  # as a minute later
    assert people.user_of_token(identity.token("berg")).name == "berg"
    assert refused(people, former)[0] == 401  # signed by a key that is no longer published


def test_a_password_is_checked_by_the_identity_server(people: Any) -> None:
    signed_in = people.sign_in("berg", "reviewer's secret")
    assert (signed_in.user.name, signed_in.user.role) == ("berg", "reviewer")
    for name, password in (("berg", "guess"), ("nobody", "reviewer's secret")):
        with pytest.raises(HTTPException) as answer:
            people.sign_in(name, password)
        assert (answer.value.status_code, answer.value.detail) == (401, "wrong name or password")
    with pytest.raises(HTTPException) as answer:
        people.sign_in("otto", "somebody's secret")
    assert answer.value.status_code == 403


def test_a_short_token_is_renewed_as_long_as_the_identity_server_likes(identity: IdentityServer, people: Any) -> None:
    identity.seconds = 1
    first = people.sign_in("anna", "annotator's secret")
    assert people.renewed(first) is first
    identity.people["anna"] = ("changed meanwhile", ["monailabel-reviewer"])
    time.sleep(1.1)
    second = people.renewed(first)
    assert second.access_token != first.access_token
    assert second.user.role == "reviewer"  # what the identity server says now
    del identity.people["anna"]
    time.sleep(1.1)
    assert people.renewed(second) is None


def test_a_client_that_the_identity_server_does_not_know_is_the_engineer_s_mistake(
    people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_CLIENT_ID", "other-app")
    with pytest.raises(HTTPException) as answer:
        people.sign_in("anna", "annotator's secret")
    assert (answer.value.status_code, "(invalid_client)" in answer.value.detail) == (503, True)


def test_passwords_that_nobody_could_check_do_not_count_as_wrong(
    identity: IdentityServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    access = importlib.import_module("lib.access").Access(tmp_path / "users.json")
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_CLIENT_ID", "other-app")  # which the identity server does not know

    async def statuses(name: str, password: str, times: int) -> list[int]:
        answers = []
        for _ in range(times):
            try:
                await access.sign_in(name, password, "10.0.0.7")
                answers.append(200)
            except HTTPException as error:
                answers.append(error.status_code)
        return answers

    assert asyncio.run(statuses("anna", "annotator's secret", 12)) == [503] * 12
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_CLIENT_ID", "monailabel-app")
    assert asyncio.run(statuses("anna", "annotator's secret", 1)) == [200]
    assert asyncio.run(statuses("anna", "a guess", 12)) == [401] * 10 + [429] * 2


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/realms/review", "not an address"])
def test_an_identity_server_that_is_away_lets_nobody_in(
    people: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", place)
    assert refused(people, "a.b.c") == (
        503,
        "the identity server does not answer; try again, or tell the server's engineer",
    )
