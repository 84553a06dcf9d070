"""What a Dask worker does with a piece: it starts a process that does it, and watches over that.

Not in the worker's own process, because there Dask draws random numbers, limits memory, allows no further processes and
cannot stop what has begun.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from typing import Any

from distributed import Worker, get_worker
from distributed.core import Status

from crossmoda.launching.orders import Home, Order, Outcome, misfit

OWN_PROCESS = "crossmoda.launching.own_process"
WATCH_S = 1.0  # between two looks at whether the piece is still wanted
GRACE_S = 10.0  # for a process that was told to stop
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # which Dask sets to 1
KEPT_MEMORY = "MALLOC_TRIM_THRESHOLD_"  # which Dask sets for many small blocks; arrays have ``keep_freed_memory``
ENDING = (Status.closing, Status.closed, Status.failed)


class ProcessEndedError(RuntimeError):
    """A piece's process has ended in the middle of it, killed or crashed; the piece is worth another try."""


def misfit_of_worker(home: Home, made_there: str, dask_worker: Worker) -> str:
    """Return in one line what keeps this worker from doing pieces, or an empty text."""
    return misfit(home, made_there, dask_worker.state.nthreads)


def do_order(order: Order) -> Outcome:
    """Do a piece in a process of its own.

    Raises:
        ProcessEndedError: the process has ended without an outcome; Dask then tries again.
    """
    worker = get_worker()
    problem = misfit_of_worker(order.home, order.place, worker)
    if problem:
        return Outcome(worker.address, mistake=f"worker {worker.address} {problem}")
    told = {"piece": str(worker.get_current_task()), "name": order.name, "worker": worker.address}
    worker.log_event(order.home.topic, told)
    answer, status = _in_own_process(order, worker)
    if not answer:
        raise ProcessEndedError(f"its process on {worker.address} ended with exit status {status}")
    outcome: Outcome = pickle.loads(answer)
    return outcome


def _in_own_process(order: Order, worker: Worker) -> tuple[bytes, int]:
    """Return what the process answers, nothing if it did not come to that, and its exit status."""
    key = worker.get_current_task()
    task: bytes | None = pickle.dumps((worker.address, order))
    environment = {**os.environ, **dict.fromkeys(THREADS, str(order.home.threads))}
    environment.pop(KEPT_MEMORY, None)
    # A session of its own: Ctrl-C at the worker's terminal reaches the worker alone, which then stops the piece.
    process = subprocess.Popen(
        [sys.executable, "-m", OWN_PROCESS, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=order.home.folder,
        env=environment,
        start_new_session=True,
    )
    with process:
        while True:
            try:
                answer, _ = process.communicate(task, timeout=WATCH_S)
                return answer, process.returncode
            except subprocess.TimeoutExpired:
                task = None  # is sent
                if not _is_wanted(worker, key):
                    _stop(process)
                    return b"", process.returncode


def _is_wanted(worker: Worker, key: Any) -> bool:
    """Tell whether somebody still waits for a task; who has launched it may have been interrupted."""
    task = worker.state.tasks.get(key)
    return worker.status not in ENDING and task is not None and task.state == "executing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process and those that it has started as Ctrl-C does; kill them where that does not help."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
            return
