"""Where received and predicted files lie while they are worked on."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from crossmoda.errors import CrossmodaError

FOLDER = ".uploads"
OLD_SECONDS = 3600.0


def keep_uploads_private(studies: Path) -> None:
    """Put this server's temporary files into a folder of the store that its owner alone can open.

    MONAI Label would put them into the machine's own, which every user reads, and leave them there when it is killed.
    What a server that is gone has left is deleted. Outside the server there is nothing to do.
    """
    if "monailabel.app" not in sys.modules:
        return
    folder = studies / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for left in folder.iterdir():
        if not (left.name.isdecimal() and psutil.pid_exists(int(left.name))) or int(left.name) == os.getpid():
            shutil.rmtree(left, ignore_errors=True)
    (folder / str(os.getpid())).mkdir(mode=0o700)
    for left in (studies / ".incoming").glob("*"):
        if time.time() - left.stat().st_mtime > OLD_SECONDS:  # another process may be at work on a newer one
            left.unlink(missing_ok=True)
    tempfile.tempdir = str((folder / str(os.getpid())).resolve())


def limit_mb(conf: Mapping[str, str], key: str, default: float) -> float:
    """Return a setting in MB, or its default.

    Raises:
        CrossmodaError: it is no positive number.
    """
    try:
        limit = float(conf.get(key, default))
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise CrossmodaError(f"--conf {key} {conf[key]}: give a number of megabytes, such as {default:.0f}")
    return limit
