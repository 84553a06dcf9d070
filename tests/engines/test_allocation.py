"""Memory that large arrays leave behind is kept for the next ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Pages of 4 KiB that the system had to clear for ten arrays of 64 MiB, one after another, and what the call returned.
FAULTS = """
import resource
import numpy as np
from crossmoda.engines.allocation import keep_freed_memory
kept = keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
array = np.frombuffer(bytearray(2**26), np.uint8)
before = faults()
for _ in range(10):
    del array
    array = np.frombuffer(bytearray(2**26), np.uint8)
print(kept, faults() - before)
"""


def run(**environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, env={**clean, **environment}, check=True, capture_output=True, text=True).stdout
    kept, faults = found.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_pages_are_cleared_once_instead_of_for_every_array() -> None:
    kept, faults = run()
    assert kept == "True"
    assert faults < 1000  # of 163 840
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
