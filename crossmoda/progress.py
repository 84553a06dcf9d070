"""How a command's progress is told."""

from __future__ import annotations

import logging


def show_progress() -> None:
    """Print the library's own messages, with the time; other packages' only if they warn."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("crossmoda").setLevel(logging.INFO)
