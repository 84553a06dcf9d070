"""What is launched on a cluster: a scheduler and two workers in processes of their own, on this machine."""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import two_workers, wait_until_gone

from crossmoda.errors import CrossmodaError
from crossmoda.launching import Cluster, Course, Piece, cluster, launcher_for


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with two_workers() as address:
        yield address


def counting(place: Path, until: int) -> Any:
    """Return work that counts in a file, goes on where the file stops, and notes each process that has taken part."""

    def work() -> None:
        with (place / "processes").open("a") as stream:
            stream.write(f"{os.getppid()} {os.getpid()}\n")
        file = place / "count"
        while (count := int(file.read_text()) if file.exists() else 0) < until:
            time.sleep(0.05)
            file.write_text(str(count + 1))

    return work


def one(name: str, place: Path, work: Any) -> Course[str]:
    place.mkdir()
    yield Piece(name, place, work)
    return name


def wait_for(path: Path, least: int) -> None:
    deadline = time.monotonic() + 20
    while not (path.is_file() and path.read_text() and int(path.read_text()) >= least):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes(place: Path) -> list[list[int]]:
    """Return ``[worker, process]`` of each try of a piece."""
    return [[int(number) for number in line.split()] for line in (place / "processes").read_text().splitlines()]


def test_independent_courses_run_at_the_same_time_each_piece_in_a_process_of_its_own(
    scheduler: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    met: list[bool] = []

    def meets(own: Path, other: Path) -> Any:
        def work() -> None:
            own.touch()
            deadline = time.monotonic() + 20
            while not other.exists():
                if time.monotonic() > deadline:
                    raise CrossmodaError("the other never began")
                time.sleep(0.02)

        return work

    def course(own: str, other: str) -> Course[str]:
        yield from one(own, tmp_path / own, meets(tmp_path / own / "begun", tmp_path / other / "begun"))
        met.append((tmp_path / other / "begun").exists())
        yield Piece("in turn", tmp_path / own, counting(tmp_path / own, 1))
        return own

    caplog.set_level("INFO", logger="crossmoda")
    with Cluster(scheduler, tmp_path) as launcher:
        assert launcher.at_once == 2
        assert launcher.run([course("a", "b"), course("b", "a")]) == ["a", "b"]
    assert met == [True, True]
    (tried,) = processes(tmp_path / "a")
    assert os.getpid() not in tried
    assert "a: begun by tcp://" in caplog.text
    assert "b: done by tcp://" in caplog.text


def test_a_piece_may_take_longer_than_a_look_at_the_workers(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK_S", 0.1)
    with Cluster(scheduler, tmp_path) as launcher:
        assert launcher.run([one("slow", tmp_path / "slow", lambda: time.sleep(1.0))]) == ["slow"]


def test_a_killed_worker_s_piece_goes_on_elsewhere_from_where_it_was(scheduler: str, tmp_path: Path) -> None:
    killed: list[int] = []

    def killer() -> Course[None]:
        place = tmp_path / "a"
        yield Piece("begins later", tmp_path, lambda: time.sleep(0.2))
        wait_for(place / "count", 5)
        killed.append(processes(place)[0][0])
        os.kill(killed[0], signal.SIGKILL)

    with Cluster(scheduler, tmp_path) as launcher:
        launcher.run([one("a", tmp_path / "a", counting(tmp_path / "a", 40)), killer()])
    assert (tmp_path / "a" / "count").read_text() == "40"
    tries = processes(tmp_path / "a")
    assert len(tries) == 2
    assert tries[1][0] != killed[0]
    assert wait_until_gone(tries[0][1])  # the first try ended with its worker, though perhaps not at once


def test_a_killed_piece_is_tried_again_a_user_s_mistake_is_not_and_ends_what_runs_beside_it(
    scheduler: str, tmp_path: Path
) -> None:
    def mistaken(place: Path) -> Any:
        note = counting(place, 0)

        def work() -> None:
            first = not (place / "processes").exists()
            note()
            if first:
                os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out
            raise CrossmodaError("spacing is -1; give mm")

        return work

    with Cluster(scheduler, tmp_path) as launcher:
        courses = [
            one("long", tmp_path / "long", counting(tmp_path / "long", 10**6)),
            one("wrong", tmp_path / "wrong", mistaken(tmp_path / "wrong")),
        ]
        with pytest.raises(CrossmodaError, match=r"^spacing is -1; give mm$"):
            launcher.run(courses)
        assert len(processes(tmp_path / "wrong")) == 2
        ((_, process),) = processes(tmp_path / "long")
        deadline = time.monotonic() + 20
        while Path(f"/proc/{process}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_nobody_foresaw_comes_back_with_its_traceback(scheduler: str, tmp_path: Path) -> None:
    with (
        Cluster(scheduler, tmp_path) as launcher,
        pytest.raises(RuntimeError, match=r"(?s)odd failed on tcp://.*ZeroDivisionError"),
    ):
        launcher.run([one("odd", tmp_path / "odd", lambda: 1 // 0)])


def test_a_worker_that_does_not_fit_is_named_before_anything_is_done(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "code_versions", lambda: {"torch": "1.0"})
        with pytest.raises(CrossmodaError, match=r"^worker tcp://\S+ has torch \S+, here it is 1\.0; start workers"):
            Cluster(scheduler, tmp_path).__enter__()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrossmodaError, match="no such file; start dask scheduler --scheduler-file"):
        Cluster("nowhere.json", tmp_path).__enter__()


def test_no_answer_no_worker_and_no_dask_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(CrossmodaError, match=r"^scheduler tcp://\S+:9: no answer \(.*start dask scheduler there"):
        launcher_for("tcp://127.0.0.1:9", tmp_path).__enter__()
    with (
        two_workers(n_workers=0) as empty,
        pytest.raises(CrossmodaError, match=r"it has no worker; start some, e\.g\. dask worker tcp://"),
    ):
        launcher_for(empty, tmp_path).__enter__()

    importing = builtins.__import__

    def without_dask(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "distributed":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_dask)
    with pytest.raises(CrossmodaError, match=r"Dask is not installed; pip install 'crossmoda\[cluster\]'"):
        launcher_for("tcp://127.0.0.1:9", tmp_path).__enter__()
