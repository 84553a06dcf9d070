"""Memory that large arrays leave behind is kept for the next ones: of a network on a CPU, every layer's output is one.

glibc maps a large block anew each time and gives it back at once, so that the system clears its pages again and again.
``python scripts/bench.py --only "memory that"`` measures what keeping it saves.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT = (2**30, 2**25)  # bytes of a block, a larger one is mapped; the most that an older glibc takes
KEPT_AT_MOST = 2**29  # bytes at the heap's end; what is free beyond them goes back to the system


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 512 MiB of it at the heap's end; return whether it does.

    It does not where the C library is another one, or where the environment has its own wish (``MALLOC_...``).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = _of_the_c_library("mallopt")
    if mallopt is None or not any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_KEPT):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_AT_MOST))


def give_back_freed_memory() -> None:
    """Let the system have what is kept and not in use."""
    malloc_trim = _of_the_c_library("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
