"""How much memory a process, and the GPU for it, holds and has held."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import torch

from crossmoda.engines.allocation import give_back_freed_memory

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
PEAK = "5"  # what Linux takes there for "let the peak begin anew"


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB."""
    return _status("VmRSS")


def peak_mib() -> float:
    """Return the most that this process has held, in MiB, since its start or since ``forget_peak``.

    Not ``getrusage``, whose figure begins with what the parent held when this process was started.
    """
    return _status("VmHWM")


def peak_of_children_mib() -> float:
    """Return the most that any finished child of this process has held, in MiB; at least what this one held then."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def peak_on_mib(device: torch.device | str) -> float:
    """Return the most that tensors of this process took of a GPU's memory, or, of a CPU, ``peak_mib``.

    Not a number where the system does not tell.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return peak_mib() if STATUS.is_file() else math.nan


def forget_peak(device: torch.device | str) -> None:
    """Let the peaks begin anew with what is held now; where Linux does not allow it, the process keeps its own."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    give_back_freed_memory()
    try:
        CLEAR_REFS.write_text(PEAK, encoding="ascii")
    except OSError:
        return


def _status(entry: str) -> float:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024
