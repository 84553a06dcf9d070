"""Who may use the review server: people with passwords and roles, kept in one file.

The file holds salted hashes (scrypt) and can be read by its owner alone. A viewer looks on, an annotator saves labels
too, a reviewer also judges, an engineer may do everything. Large teams use MONAI Label's own OpenID Connect instead.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, read_json

USERS_FILE = ".users.json"
VIEWER, ANNOTATOR, REVIEWER, ENGINEER = "viewer", "annotator", "reviewer", "engineer"
ROLES = (VIEWER, ANNOTATOR, REVIEWER, ENGINEER)  # each may do what those before it may
SHORTEST_PASSWORD = 10  # characters

_SCRYPT = {"n": 1 << 15, "r": 8, "p": 3}  # 32 MiB and about a quarter of a second for each guess
_NAME = re.compile(r"\w[\w .@'-]{0,79}")
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class User:
    """A person who may use the server.

    Args:
        name: as the labels will record it.
        role: one of ``ROLES``.
    """

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Tell whether this person may do what somebody of a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class Record:
    """What the file says of one person.

    Args:
        role: one of ``ROLES``.
        salt: of the hash.
        hash: scrypt of the password.
    """

    role: str
    salt: bytes
    hash: bytes


# What the password of an unknown person is compared with, so that names cannot be told from how long it takes.
NOBODY = Record(VIEWER, b"\0" * 16, b"\0" * 64)


def users_file(studies_or_file: str | Path) -> Path:
    """Return the file of users: the one named, or the folder's own."""
    path = Path(studies_or_file)
    return path / USERS_FILE if path.is_dir() else path


def read_users(file: Path) -> dict[str, Record]:
    """Return name -> record; empty where there is no file.

    Raises:
        CrossmodaError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return {
            str(name): Record(
                _known_role(user["role"]), base64.b64decode(user["salt"]), base64.b64decode(user["scrypt"])
            )
            for name, user in read_json(file)["users"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CrossmodaError(f"{file}: not a file of users; delete it and add the users again") from error


def add_user(file: Path, name: str, role: str, password: str) -> None:
    """Add a person to a file of users, or replace what it says of them; the file appears whole or not at all.

    Raises:
        CrossmodaError: the name, the role or the password cannot be used, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise CrossmodaError(f"name {name[:80]!r}: use letters, digits, spaces and . _ @ ' - (at most 80), no colon")
    _known_role(role)
    if len(password) < SHORTEST_PASSWORD:
        raise CrossmodaError(f"the password is shorter than {SHORTEST_PASSWORD} characters; choose a longer one")
    salt = secrets.token_bytes(16)
    if not file.parent.is_dir():
        raise CrossmodaError(f"{file.parent}: no such folder; name the folder under review, or a file in a folder")
    try:
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            users = {known: _described(record) for known, record in read_users(file).items()}
            users[name] = _described(Record(role, salt, _hash(password, salt)))
            _write_private(file, json.dumps({"users": users}, indent=2) + "\n")
    except Timeout as error:
        raise CrossmodaError(f"{file}: busy for {_LOCK_SECONDS:.0f} s; stop the other process") from error


def is_password_of(record: Record, password: str) -> bool:
    """Tell whether a password is a person's; takes about a quarter of a second, whatever the answer."""
    return hmac.compare_digest(_hash(password, record.salt), record.hash)


def add_user_command(studies_or_file: str | Path, name: str, role: str) -> None:
    """Ask for a password, or read it from stdin's first line, and add a person.

    Raises:
        CrossmodaError: see ``add_user``; or the two passwords typed differ.
    """
    file = users_file(studies_or_file)
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Once more: ") != password:
            raise CrossmodaError("the two passwords differ; give the command again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    add_user(file, name, role, password)
    print(f"written: {file}; {name} is {role}; {len(read_users(file))} in all. The server asks for passwords now.")


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address reaches this machine alone."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def oidc_is_on() -> bool:
    """Tell whether MONAI Label's own OpenID Connect is switched on for servers started from here."""
    return os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").strip().lower() in ("1", "true", "t", "yes", "y", "on")


def require_safe_host(host: str, studies: Path) -> None:
    """Refuse to listen to other machines as long as nobody is asked for a password.

    Raises:
        CrossmodaError: with the command that sets one.
    """
    if not is_loopback(host) and not oidc_is_on() and not read_users(users_file(studies)):
        raise CrossmodaError(
            f"--host {host}: other machines would reach the server and nobody is asked for a password; first run "
            f"'python -m crossmoda add_user {studies} --name NAME --role engineer', or leave --host out"
        )


def _known_role(role: str) -> str:
    if role not in ROLES:
        raise CrossmodaError(f"role {str(role)[:40]!r}: unknown; use one of {', '.join(ROLES)}")
    return role


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT, maxmem=1 << 27)


def _described(record: Record) -> dict[str, str]:
    salt, digest = (base64.b64encode(value).decode() for value in (record.salt, record.hash))
    return {"role": record.role, "salt": salt, "scrypt": digest}


def _write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone can read, at no moment otherwise."""
    with atomic_path(file) as partial:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
