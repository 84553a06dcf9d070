"""Which device this process computes on."""

from __future__ import annotations

import torch


def device_here(wanted: torch.device | str | None = None) -> torch.device:
    """Return the device that is wanted, or else the first GPU that this process sees, or else the CPU."""
    return torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
