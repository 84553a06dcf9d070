"""How much memory a process holds and has held, for scripts that measure in processes of their own."""

from __future__ import annotations

import resource
from pathlib import Path


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB."""
    return _status("VmRSS")


def peak_mib() -> float:
    """Return the most that this process has held, in MiB.

    Not ``getrusage``, whose figure begins with what the parent held when this process was started.
    """
    return _status("VmHWM")


def peak_of_children_mib() -> float:
    """Return the most that any finished child of this process has held, in MiB; at least what this one held then."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _status(entry: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024
