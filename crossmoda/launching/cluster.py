"""Courses followed at the same time, their pieces done by the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crossmoda.errors import CrossmodaError
from crossmoda.launching.orders import Home, Order, Outcome, code_versions
from crossmoda.launching.pieces import Course, Launcher, Piece, T, do

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0  # for a scheduler to answer, and for a first worker to be there
LOOK_S = 60.0  # between two looks at whether any worker is left
RETRIES = 3  # of a piece whose process was killed; Dask's own ``allowed-failures`` counts those whose worker was

TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # two kinds before Python 3.11

logger = logging.getLogger(__name__)


def launcher_for(scheduler: str | None, folder: Path) -> Launcher:
    """Return what follows courses on the workers of a Dask scheduler, or here if there is none.

    Args:
        scheduler: its address, as ``tcp://host:8786``, or its ``--scheduler-file``; None or empty is none.
        folder: that the work is done in.
    """
    return Cluster(str(scheduler), folder) if scheduler else Launcher()


class Cluster(Launcher):
    """Follow courses at the same time, and let the workers of a Dask cluster do their pieces.

    A worker does one piece at a time, in a process of its own. A piece whose worker or process dies is done again by
    another worker, where it goes on from what it has left in its place. Records are kept here, between pieces. What a
    piece launches in turn is done where the piece is.

    Args:
        scheduler: address, or file that the scheduler has written its address to.
        folder: that all work is done in; workers must see it.
    """

    scheduler: str

    def __init__(self, scheduler: str, folder: Path) -> None:
        self.scheduler = scheduler
        self.folder = folder.absolute()
        self.client: Client | None = None
        self._begun: set[str] = set()  # pieces that a worker has begun

    def __reduce__(self) -> tuple[Callable[[], Launcher], tuple[()]]:
        """Become a launcher that does what it is given where it is."""
        return Launcher, ()

    @property
    def at_once(self) -> int:  # type: ignore[override]
        """How many pieces are worked at together."""
        return max(1, len(self.client.nthreads())) if self.client else 1

    def __enter__(self) -> Cluster:
        """Connect to the scheduler, and make sure that every worker can do pieces.

        Raises:
            CrossmodaError: Dask is not installed, the scheduler does not answer, it has no worker, or a worker cannot
                do pieces.
        """
        self.client = _connect(self.scheduler)
        try:
            self.home = _home()
            self.client.subscribe_topic(self.home.topic, self._tell_begin)
            self._require_workers()
        except BaseException:
            self.client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the scheduler; workers stop what was not finished."""
        if self.client is not None:
            self.client.close()
            self.client = None

    def _require_workers(self) -> None:
        from crossmoda.launching.worker import misfit_of_worker

        assert self.client is not None
        try:
            self.client.wait_for_workers(1, timeout=CONNECT_S)
        except TIMEOUTS as error:
            raise CrossmodaError(
                f"scheduler {self.scheduler}: it has no worker; start some, e.g. dask worker {self.scheduler} "
                "--nthreads 1"
            ) from error
        with _new_file(self.folder) as file:
            found = self.client.run(misfit_of_worker, self.home, str(file), on_error="return")
        for address, problem in found.items():
            if isinstance(problem, BaseException):
                raise CrossmodaError(
                    f"worker {address} cannot import this project ({_one_line(problem)}); start it in the environment "
                    "of this command"
                ) from problem
            if problem:
                raise CrossmodaError(f"worker {address} {problem}")
        logger.info("%d workers at %s", len(found), self.scheduler)

    def run(self, courses: Iterable[Course[T]]) -> list[T]:
        """Follow independent courses to their ends, and return what they return, in their order.

        Raises:
            CrossmodaError: whatever a piece found to be the user's to mend; a piece that lost its worker again and
                again; or the scheduler was lost. Other courses then stop, too.
        """
        followed = list(courses)
        returned: dict[int, T] = {}
        waited: dict[Future[Outcome], tuple[int, Piece]] = {}

        def go_on(number: int, seconds: Any) -> None:
            """Let a course go on to its next piece that a worker does."""
            while True:
                try:
                    piece = followed[number].send(seconds)
                except StopIteration as end:
                    returned[number] = end.value
                    return
                if not piece.here:
                    waited[self._submit(piece)] = number, piece
                    return
                seconds = do(piece)

        try:
            for number in range(len(followed)):
                go_on(number, None)
            while waited:
                for future in self._first_done(list(waited)):
                    number, piece = waited.pop(future)
                    outcome = self._outcome(future, piece)
                    future.release()  # a worker that is lost later must not make Dask do the piece again
                    go_on(number, outcome.seconds)
        finally:
            if waited and self.client is not None:
                self.client.cancel(list(waited))
        return [returned[number] for number in range(len(followed))]

    def _submit(self, piece: Piece) -> Future[Outcome]:
        import cloudpickle

        from crossmoda.launching.worker import do_order

        assert self.client is not None, "to be entered before it runs"
        order = Order(piece.name, str(piece.place.absolute()), cloudpickle.dumps(piece.work), self.home)
        key = f"{piece.name}-{uuid.uuid4().hex[:8]}"
        return self.client.submit(do_order, order, key=key, pure=False, retries=RETRIES)

    def _first_done(self, futures: list[Future[Outcome]]) -> list[Future[Outcome]]:
        """Wait until at least one piece is done, and return those that are."""
        from distributed import CancelledError, wait

        assert self.client is not None
        told = False
        while True:
            try:
                with self.client.as_current():
                    return list(wait(futures, timeout=LOOK_S, return_when="FIRST_COMPLETED").done)
            except TIMEOUTS:
                left = len(self.client.nthreads())
                if not left and not told:
                    logger.warning("no worker is left at %s; the work goes on as soon as there is one", self.scheduler)
                told = not left
            except (CancelledError, OSError) as error:
                raise self._lost() from error

    def _outcome(self, future: Future[Outcome], piece: Piece) -> Outcome:
        """Return what became of a piece that was done."""
        from distributed import KilledWorker

        from crossmoda.launching.worker import ProcessEndedError

        if future.cancelled():
            raise self._lost()
        try:
            outcome = future.result()
        except (KilledWorker, ProcessEndedError) as error:
            raise CrossmodaError(
                f"{piece.name}: killed again and again in the middle of it ({_one_line(error)[:300]}); look for the "
                "reason in the worker's log, e.g. want of memory, and run the same command again, which goes on"
            ) from error
        if outcome.mistake:
            raise CrossmodaError(outcome.mistake)
        if outcome.traceback:
            raise RuntimeError(f"{piece.name} failed on {outcome.worker}:\n{outcome.traceback}")
        logger.info("%s: done by %s in %.0f s", piece.name, outcome.worker, outcome.seconds)
        return outcome

    def _lost(self) -> CrossmodaError:
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # its traceback says no more
        return CrossmodaError(
            f"scheduler {self.scheduler}: lost in the middle of the work; start it again and run the same command, "
            "which goes on"
        )

    def _tell_begin(self, event: tuple[float, dict[str, str]]) -> None:
        """Log where a piece has begun; called by the client's own thread."""
        _, told = event
        again = "begun again" if told["piece"] in self._begun else "begun"
        self._begun.add(told["piece"])
        logger.info("%s: %s by %s", told["name"], again, told["worker"])


def _connect(scheduler: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise CrossmodaError(
            f"scheduler {scheduler}: Dask is not installed; pip install 'crossmoda[cluster]', or leave scheduler out"
        ) from error
    place: dict[str, str] = {"address": scheduler}
    if "://" not in scheduler and (scheduler.endswith(".json") or "/" in scheduler):
        if not Path(scheduler).is_file():
            raise CrossmodaError(f"{scheduler}: no such file; start dask scheduler --scheduler-file {scheduler}")
        place = {"scheduler_file": scheduler}
    try:
        return Client(**place, timeout=CONNECT_S, set_as_default=False)
    except Exception as error:  # whatever a name, a network or a file has wrong
        raise CrossmodaError(
            f"scheduler {scheduler}: no answer ({_one_line(error)[:200]}); start dask scheduler there, or leave "
            "scheduler out to train here"
        ) from error


def _home() -> Home:
    import torch

    script_folder = str(Path(sys.path[0] or ".").absolute())
    topic = f"crossmoda-{uuid.uuid4().hex}"
    return Home(str(Path.cwd()), script_folder, torch.get_num_threads(), code_versions(), topic)


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """Make a file of a name that was never there, for as long as the block lasts."""
    file = folder / f".seen_by_workers-{uuid.uuid4().hex[:8]}"
    try:
        file.touch()
    except OSError as error:
        raise CrossmodaError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
