"""People who sign in: what is known of them, and the file of users as one who knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastapi import HTTPException

from crossmoda.self_training.review_access import NOBODY, Record, User, is_password_of, read_users


@dataclass(frozen=True)
class SignedIn:
    """Somebody who has signed in.

    Args:
        user: who.
        record: what the file of users said then.
        access_token: of OpenID Connect.
        refresh_token: with which a new one is fetched, where the identity server gives one.
        until: when the access token expires, in seconds since 1970.
    """

    user: User
    record: Record = NOBODY
    access_token: str = ""
    refresh_token: str = ""
    until: float = 0.0


class People(Protocol):
    """Who knows the people and their passwords. The methods wait for slow work; call them in threads.

    ``at_once`` says how many passwords are checked at once.
    """

    at_once: int

    def are_asked(self) -> bool:
        """Tell whether anybody is asked who they are."""

    def sign_in(self, name: str, password: str) -> SignedIn:
        """Return who has this name and password.

        Raises:
            HTTPException: 401 where nobody has, 403 where the person has no role here.
        """

    def renewed(self, signed_in: SignedIn) -> SignedIn | None:
        """Return who has signed in as they are now; None where they may not go on."""

    def user_of_token(self, token: str) -> User | None:
        """Return who a token names that was given out elsewhere; None where there are no such tokens.

        Raises:
            HTTPException: 401 for a token that is not valid here, 403 where the person has no role here.
        """


class Passwords:
    """The people of a file of users.

    Args:
        file: read again whenever it changes; nobody is asked as long as it holds none.
    """

    at_once = 2  # each takes 32 MiB and a quarter of a second

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[int, dict[str, Record]] = (-1, {})

    def users(self) -> dict[str, Record]:
        """Return name -> record as the file says now.

        Raises:
            CrossmodaError: the file is damaged.
        """
        state = self._file.stat().st_mtime_ns if self._file.is_file() else 0
        if self._read[0] != state:
            self._read = (state, read_users(self._file))
        return self._read[1]

    def are_asked(self) -> bool:
        """Tell whether anybody is asked who they are."""
        return bool(self.users())

    def sign_in(self, name: str, password: str) -> SignedIn:
        """Return who has this name and password; takes equally long where nobody has this name."""
        record = self.users().get(name, NOBODY)
        if not is_password_of(record, password) or record is NOBODY:
            raise HTTPException(401, "wrong name or password")
        return SignedIn(User(name, record.role), record)

    def renewed(self, signed_in: SignedIn) -> SignedIn | None:
        """Return who has signed in; None where the password or the role was changed, or the person deleted, since."""
        return signed_in if self.users().get(signed_in.user.name) == signed_in.record else None

    def user_of_token(self, token: str) -> User | None:
        """Return None: this server gives out the tokens itself."""
        return None
