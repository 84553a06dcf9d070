"""A process ends with its parent, whatever ended that. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support import is_running, wait_until_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")

CHILD = """
import multiprocessing, os, sys, time
from crossmoda.processes import end_with_parent
end_with_parent({parent})
helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
helper.start()
print(os.getpid(), helper.pid, flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a Python process whose child runs Python with these arguments."""
    return subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)


def kill_all(*pids: int) -> None:
    for pid in pids:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_and_its_helpers_end_with_a_killed_parent(sent: signal.Signals) -> None:
    with start("-c", CHILD.format(parent="os.getppid()")) as parent:
        assert parent.stdout
        pids = [int(number) for number in parent.stdout.readline().split()]
        try:
            assert len(pids) == 2
            assert all(is_running(pid) for pid in pids)
            parent.send_signal(sent)
            assert wait_until_gone(*pids)
        finally:
            kill_all(parent.pid, *pids)


def test_a_parent_that_ended_before_is_noticed() -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD.format(parent=1 << 30)], capture_output=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == b""
    assert ended.stdout == b""
