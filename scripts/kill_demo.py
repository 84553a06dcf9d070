"""Kill the demo with SIGKILL at random moments, let it go on, and compare its metrics with those of an unbroken run.

    python scripts/kill_demo.py --reference runs/demo --run runs/killed --kills 10

Takes as long as the demo, and what each kill threw away (at most an epoch of a training, or a prediction). Exit status
0 only if every round's and both anchors' metrics are equal to the reference's.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from crossmoda.command_line import run_command
from crossmoda.files import PARTIAL_MARK, read_json


def main(
    reference: str = "runs/demo",
    run: str = "runs/killed",
    dataset: str = "runs/demo_data",
    kills: int = 10,
    seed: int = 1,
) -> None:
    """Kill, resume, compare.

    Args:
        reference: a finished run of the demo.
        run: folder of the run that is killed; what is there is deleted first.
        dataset: the demo's synthetic dataset.
        kills: how often to kill.
        seed: of the moments.
    """
    shutil.rmtree(run, ignore_errors=True)
    start_seconds = seconds_to_start(demo(reference, dataset))
    command = demo(run, dataset)
    moments = random.Random(seed)
    share = seconds_of(Path(reference)) / kills
    for number in range(kills):
        patience = start_seconds + moments.uniform(0.3, 1.5) * share
        status = run_for(command, patience)
        finished = len(list(Path(run).rglob("metrics.json")))
        print(f"kill {number + 1}: after {patience:.0f} s, status {status}, {finished} metrics.json so far", flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sys.exit(compare(Path(reference), Path(run)))


def demo(run: str, dataset: str) -> list[str]:
    """Return the command that makes a run, or goes on with it."""
    return [sys.executable, "-m", "crossmoda", "demo", run, "--dataset", dataset]


def seconds_to_start(command: list[str]) -> float:
    """Return how long the command takes where all is done: what each start costs before any work goes on."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def seconds_of(run: Path) -> float:
    """Return how long the steps of a finished run took together."""
    manifests = run.rglob("manifest.json")
    return sum(step["seconds"] for path in manifests for step in read_json(path)["steps"].values())


def run_for(command: list[str], seconds: float) -> int:
    """Start a command in a process group of its own, kill the group after the given time, and return the status."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def compare(reference: Path, run: Path) -> int:
    """Print where the metrics differ, and return the exit status."""
    names = sorted(path.relative_to(reference) for path in reference.rglob("metrics.json"))
    different = [name for name in names if not equal(reference / name, run / name)]
    left = [path for path in run.rglob("*") if PARTIAL_MARK in path.name]
    for name in different:
        print(f"differs: {name}")
    for path in left:
        print(f"left behind: {path}")
    print(f"{len(names) - len(different)} of {len(names)} metrics.json equal, {len(left)} unfinished files left")
    return 1 if different or left else 0


def equal(a: Path, b: Path) -> bool:
    """Tell whether both files exist and hold the same."""
    return b.is_file() and bool(read_json(a) == read_json(b))


if __name__ == "__main__":
    run_command(main)
