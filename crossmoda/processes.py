"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux's prctl(2): the signal that a process gets when its parent ends


def end_with_parent(parent: int) -> None:
    """End this process, and those that it has started by ``multiprocessing``, when its parent ends, however that does.

    A process that leads a group of its own ends all of the group.

    To be called at the start, from the main thread. The end comes at once, without clean-up. Linux alone tells a
    process of its parent's end; elsewhere only a parent that has ended already is noticed.

    Args:
        parent: process number of the parent, by which one that ended before the call is told.
    """
    if sys.platform == "linux":
        # Not SIGTERM, since forked helpers inherit the handler, and pools end theirs by SIGTERM, wherever they hang.
        signal.signal(signal.SIGUSR1, _end)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() != parent:
        _end()


def _end(*_: Any) -> None:
    for child in multiprocessing.active_children():
        child.terminate()
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    os._exit(1)
