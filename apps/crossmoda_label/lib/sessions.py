"""Scans that clients send for a while without putting them into the store: MONAI Label's sessions, bounded.

MONAI Label keeps them in the user's home, numbers them by time and machine, uses them after their end, and stops
cleaning up at the first one that it cannot read.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.utils.sessions import SessionInfo, Sessions

FOLDER = ".sessions"
SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAX_SESSIONS_MB = 4096.0


class ReviewSessions(Sessions):
    """The sessions of a run.

    Args:
        folder: where their scans lie; made where it is missing, then open to its owner alone.
        max_mb: of all sessions together.
        expiry_s: after so many seconds without use, or earlier where the client says so, a session ends.
    """

    def __init__(self, folder: Path, max_mb: float, expiry_s: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(str(folder), expiry_s)
        self._folder = folder
        self._max_bytes = int(max_mb * 1e6)
        self._adding = threading.Lock()

    def __bool__(self) -> bool:
        """Say that there may be sessions, also where none has been used since the start; MONAI Label asks this."""
        return True

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Keep a scan and return the session's id, which cannot be guessed, and what is known of it.

        Raises:
            HTTPException: 413 where all sessions together would become too large.
        """
        received = Path(data_file)
        with self._adding:
            if not self._has_room_for(received):
                self.remove_expired()
            if not self._has_room_for(received):
                _delete(received)  # MONAI Label would leave it
                limit = f"{self._max_bytes / 1e6:.3g} MB"
                raise HTTPException(413, f"no room: all sessions may take {limit}; end one, or --conf max_sessions_mb")
            added: tuple[str, SessionInfo] = super().add_session(
                data_file, expiry, uncompress, session_id or str(uuid.uuid4())
            )
            return added

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """Return what is known of a session; None where there is none, or it has ended."""
        try:
            known = super().get_session(session_id, False, fetch_cache)
        except (OSError, ValueError, AttributeError, TypeError):  # what a killed server has left
            known = None
        if known is None or known.last_access_ts + known.expiry < time.time():
            return None
        return super().get_session(session_id, True, True) if update_ts else known

    def remove_expired(self) -> int:
        """Delete what has ended or cannot be read, and return how many sessions that were."""
        found = [path.name for path in self._folder.iterdir() if path.is_dir() and SESSION_ID.fullmatch(path.name)]
        ended = [session_id for session_id in found if self.get_session(session_id, False, False) is None]
        for session_id in ended:
            self.remove_session(session_id)
        return len(ended)

    def _has_room_for(self, received: Path) -> bool:
        return _bytes_of(self._folder) + _bytes_of(received) <= self._max_bytes


def open_sessions(run: Path, max_mb: float) -> ReviewSessions | None:
    """Return a run's sessions, where MONAI Label's settings want any, and at the place that these name, if they do."""
    if not settings.MONAI_LABEL_SESSIONS:
        return None
    folder = Path(settings.MONAI_LABEL_SESSION_PATH or run / FOLDER)
    return ReviewSessions(folder.resolve(), max_mb, settings.MONAI_LABEL_SESSION_EXPIRY)


def without_places(answer: Any) -> Any:
    """Return what a session's endpoint answers without the folders of this machine."""
    if not isinstance(answer, dict):
        return answer
    shown = {key: without_places(value) if key == "session_info" else value for key, value in answer.items()}
    return {key: Path(str(value)).name if key in ("path", "image") else value for key, value in shown.items()}


def _delete(place: Path) -> None:
    """Delete a file or folder, and the folder of a received file where it is left empty."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        return
    place.unlink(missing_ok=True)
    with suppress(OSError):
        place.parent.rmdir()


def _bytes_of(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())
