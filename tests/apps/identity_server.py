"""A small OpenID Connect provider on loopback: discovery, key set, and tokens for passwords and refresh tokens."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

REALM = "/realms/review"
CLIENT = "monailabel-app"  # MONAI Label's default


class IdentityServer:
    """Knows people by name -> (password, roles), and signs tokens for them as Keycloak shapes them.

    ``seconds`` is how long a token lasts, ``asked`` the paths that were asked for.
    """

    def __init__(self, people: dict[str, tuple[str, list[str]]]) -> None:
        self.people = people
        self.seconds = 300.0
        self.asked: list[str] = []
        self.refresh_tokens: dict[str, str] = {}
        self.url = ""
        self.change_key()

    def change_key(self) -> None:
        """Sign with another key from now on, and publish this one alone."""
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = secrets.token_hex(4)

    def claims(self, name: str) -> dict[str, Any]:
        """Return what a token says of a person."""
        roles = self.people[name][1] if name in self.people else []
        return {
            "iss": self.url,
            "aud": "account",
            "azp": CLIENT,
            "exp": time.time() + self.seconds,
            "preferred_username": name,
            "realm_access": {"roles": roles},
        }

    def token(self, name: str, *without: str, **changed: Any) -> str:
        """Return a signed token for a person, with claims changed or left out."""
        claims = {key: value for key, value in {**self.claims(name), **changed}.items() if key not in without}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.key_id})

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        """Return status and content of the answer to a request."""
        self.asked.append(path)
        if path == f"{REALM}/.well-known/openid-configuration":
            places = {"jwks_uri": f"{self.url}/keys", "token_endpoint": f"{self.url}/token"}
            return 200, {"issuer": self.url, **places}
        if path == f"{REALM}/keys":
            public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
            return 200, {"keys": [{**public, "kid": self.key_id, "use": "sig", "alg": "RS256"}]}
        if path == f"{REALM}/token":
            return self._grant(form)
        return 404, {}

    def _grant(self, form: dict[str, str]) -> tuple[int, Any]:
        if form.get("client_id") != CLIENT:
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "refresh_token":
            name = self.refresh_tokens.pop(form["refresh_token"], "")
        else:
            name, known = form["username"], self.people.get(form["username"], ("", []))
            name = name if known[0] and form["password"] == known[0] else ""
        if name not in self.people:
            return 401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}
        refresh = secrets.token_hex(8)
        self.refresh_tokens[refresh] = name
        return 200, {"access_token": self.token(name), "refresh_token": refresh, "token_type": "Bearer"}


@contextmanager
def identity_server(people: dict[str, tuple[str, list[str]]]) -> Iterator[IdentityServer]:
    """Run an identity server on a free port of this machine."""
    identity = IdentityServer(people)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            form = {key: values[0] for key, values in parse_qs(self.rfile.read(length).decode()).items()}
            status, content = identity.answer(self.path, form)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    identity.url = f"http://127.0.0.1:{server.server_port}{REALM}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield identity
    finally:
        server.shutdown()
        server.server_close()
