"""The process of one piece: ``python -m crossmoda.launching.own_process PARENT``, started by a worker.

It reads the order from its standard input and answers with an outcome on its standard output; what the piece prints
goes to the worker's log. It ends with the worker, whatever ends that, so that no two tries of a piece are at work.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from pathlib import Path

from crossmoda.errors import find_user_error
from crossmoda.launching.alone import alone_in
from crossmoda.launching.orders import Order, Outcome
from crossmoda.processes import end_with_parent
from crossmoda.progress import show_progress


def main(parent: str) -> None:
    """Do the piece that is ordered.

    Args:
        parent: number of the worker's process.
    """
    end_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a worker in the background has set to be ignored
    answer = os.dup(1)
    os.dup2(2, 1)
    address, order = pickle.load(sys.stdin.buffer)
    outcome = _outcome(address, order)
    with os.fdopen(answer, "wb") as stream:
        pickle.dump(outcome, stream)


def _outcome(worker: str, order: Order) -> Outcome:
    sys.path.insert(0, order.home.script_folder)
    show_progress()
    started = time.monotonic()
    try:
        with alone_in(Path(order.place)):
            pickle.loads(order.call)()
    except Exception as error:  # whatever a training raises, for the process that waits for it
        mistake = find_user_error(error)
        if mistake is not None:
            return Outcome(worker, mistake=str(mistake))
        return Outcome(worker, traceback=traceback.format_exc())
    return Outcome(worker, seconds=time.monotonic() - started)


if __name__ == "__main__":
    main(sys.argv[1])
