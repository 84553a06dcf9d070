"""One process at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from crossmoda.launching.alone import alone_in, forget_tries, tries_in

HOLDER = """
import sys, time
from pathlib import Path
from crossmoda.launching.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1.0)
"""


def test_another_process_is_waited_for_and_tries_are_counted(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    with alone_in(tmp_path):
        assert time.monotonic() - began > 0.5
        with alone_in(tmp_path):  # who holds it goes on
            assert tries_in(tmp_path) == 2
    assert holder.wait() == 0
    forget_tries(tmp_path.parent)
    assert tries_in(tmp_path) == 0
