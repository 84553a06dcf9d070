"""Kill the review server with SIGKILL while labels are saved at once, and look for every save that it acknowledged.

    python scripts/kill_server.py runs/demo
    python scripts/kill_server.py runs/demo --saves 12 --clients 4 --kills 1

The run is not changed: its pseudo-labels are published into a temporary folder. Clients save labels with 3D Slicer's
own client until the server has acknowledged as many as asked for, and begin again at every refusal. Meanwhile the
server is killed and started again, and ``datastore_v2.json`` is read over and over. In the end every acknowledged label
must be there, readable, as its case's latest or as a former version, and in the history, by its bytes and with the
former version that it replaced; and history, database and files must agree (``python -m crossmoda audit --check``).
Exit status 0 only if all of that holds.
Takes about 25 seconds for every kill, most of it the server's start.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.command_line import run_command
from crossmoda.data.volumes import read_grid, read_volume, write_volume
from crossmoda.files import PARTIAL_MARK, sha256_of
from crossmoda.self_training.review import publish, server_arguments, server_environment
from crossmoda.self_training.review_events import SAVED
from crossmoda.self_training.review_history import history, problems
from crossmoda.self_training.review_store import ORIGINAL, STORE_FILE, ReviewStore

START_SECONDS = 240.0
CLIENT = Path("plugins/slicer/MONAILabel/MONAILabelLib/client.py")


@dataclass
class Saves:
    """What the clients share.

    Args:
        wanted: acknowledged saves, after which all stop.
        acknowledged: image id -> numbers of the labels, in the order of the answers.
        refused: saves that got no good answer.
        unreadable: times that ``datastore_v2.json`` was no JSON.
    """

    wanted: int
    acknowledged: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0
    unreadable: int = 0
    numbered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> int:
        """Return how many saves were acknowledged."""
        with self.lock:
            return sum(map(len, self.acknowledged.values()))

    def next_number(self) -> int:
        """Return a number that no other label has."""
        with self.lock:
            self.numbered += 1
            return self.numbered


def main(run: str = "runs/demo", saves: int = 200, clients: int = 8, kills: int = 20, seed: int = 1) -> None:
    """Save, kill, start again, and look.

    Args:
        run: a run folder with a finished round.
        saves: that must be acknowledged.
        clients: at work at once.
        kills: how often the server is killed.
        seed: of the moments of the kills.
    """
    folder = Path(tempfile.mkdtemp(prefix="kill_server_"))
    try:
        sys.exit(0 if passes(Path(run).resolve(), folder, saves, clients, kills, random.Random(seed)) else 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def passes(run: Path, folder: Path, wanted: int, clients: int, kills: int, moments: random.Random) -> bool:
    """Do it in a folder, print a line for each kill and a summary, and tell whether nothing was lost."""
    studies, state, started = folder / "studies", Saves(wanted), time.monotonic()
    publish(run, studies)
    port = free_port()
    stop = threading.Event()
    workers = [
        threading.Thread(target=keep_saving, args=(port, studies, folder, state, stop), daemon=True)
        for _ in range(clients)
    ]
    watcher = threading.Thread(target=keep_reading, args=(studies, state, stop), daemon=True)
    server = start_server(run, studies, port, folder)
    for thread in (*workers, watcher):
        thread.start()
    for kill in range(1, kills + 1):
        wait_for(state, round(wanted * (kill - moments.uniform(0.2, 0.8)) / (kills + 1)))
        time.sleep(moments.uniform(0, 0.3))
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        print(f"kill {kill}: {state.count()} saves acknowledged so far", flush=True)
        server = start_server(run, studies, port, folder)
    wait_for(state, wanted)
    stop.set()
    for thread in (*workers, watcher):
        thread.join(60)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    return report(studies, state, kills, clients, time.monotonic() - started)


def keep_saving(port: int, studies: Path, folder: Path, state: Saves, stop: threading.Event) -> None:
    """Save one label after another, each with its own number in its voxels, until enough are acknowledged."""
    module = slicer_client_module()
    images = sorted(ReviewStore(studies).read()["objects"])
    while not stop.is_set() and state.count() < state.wanted:
        number = state.next_number()
        image_id = images[number % len(images)]
        file = folder / f"{number}.nii.gz"
        grid = read_grid(scan_of(studies, image_id))
        write_volume(file, label_of(number, grid.shape), grid.affine, np.uint8)
        client = module.MONAILabelClient(f"http://127.0.0.1:{port}", str(folder), f"client-{number}")
        try:
            client.save_label(image_id, str(file), params={"label_info": [{"name": "vs", "idx": 1}]})
        except Exception:  # killed before, in between or after: nothing was promised
            with state.lock:
                state.refused += 1
            time.sleep(0.2)
        else:
            with state.lock:
                state.acknowledged[image_id].append(number)
        finally:
            file.unlink(missing_ok=True)


def keep_reading(studies: Path, state: Saves, stop: threading.Event) -> None:
    """Read ``datastore_v2.json`` over and over; it must always be whole."""
    while not stop.is_set():
        try:
            json.loads((studies / STORE_FILE).read_text(encoding="utf-8"))
        except (ValueError, OSError):
            state.unreadable += 1
        time.sleep(0.02)


def label_of(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map (X, Y, Z) whose first voxels are the number's binary digits, after a 1."""
    label = np.zeros(shape, np.uint8)
    digits = [1, *((number >> bit) & 1 for bit in range(20))]
    label.reshape(-1)[: len(digits)] = digits
    return label


def number_of(label: np.ndarray) -> int:
    """Return the number that ``label_of`` wrote; 0 for another label."""
    digits = label.reshape(-1)[:21].astype(int)
    return sum(int(digit) << bit for bit, digit in enumerate(digits[1:])) if digits[0] == 1 else 0


def report(studies: Path, state: Saves, kills: int, clients: int, seconds: float) -> bool:
    """Print what is missing, and a summary; tell whether nothing is."""
    whole = json.loads((studies / STORE_FILE).read_text(encoding="utf-8"))  # before anything is repaired
    store = ReviewStore(studies)
    objects = store.recover()["objects"]
    found = {image_id: digests_of(store, image_id, entry) for image_id, entry in objects.items()}
    saved = [(image_id, number) for image_id, numbers in state.acknowledged.items() for number in numbers]
    lost = [(image_id, number) for image_id, number in saved if number not in found[image_id]]
    versions = sum(map(len, found.values()))
    disagreements = problems(studies)
    saves = [event for event in history(studies) if event["event"] == SAVED]
    told = {(event["image_id"], event.get("sha256")) for event in saves}
    untold = [
        (image_id, n) for image_id, n in saved if n in found[image_id] and (image_id, found[image_id][n]) not in told
    ]
    former = without_former_version(saves, objects)
    for what, labels in (("lost", lost), ("not in the history", untold)):
        for image_id, number in labels:
            print(f"{what}: label {number} of {image_id}")
    print("".join(f"{line}\n" for line in [*disagreements, *former][:20]), end="")
    left = [path for path in (studies / "labels").rglob("*") if PARTIAL_MARK in path.name]
    print(
        f"{state.count()} saves acknowledged by {clients} clients, {state.refused} cut off or not answered, "
        f"{kills} kills, {seconds:.0f} s: {len(lost)} lost; {versions} labels readable in latest and former versions; "
        f"{STORE_FILE} unreadable {state.unreadable} times, {len(whole['objects'])} cases in it; "
        f"{len(left)} unfinished files left; {len(saves)} saves in the history, {len(untold)} acknowledged ones not, "
        f"{len(former)} without their former version; {len(disagreements)} disagreements"
    )
    told_in_full = not untold and not former and not disagreements and state.count() >= state.wanted
    return not lost and not state.unreadable and told_in_full


def digests_of(store: ReviewStore, image_id: str, entry: Mapping[str, Any]) -> dict[int, str]:
    """Return number -> sha256 of the labels that people have saved of a case, the latest and former ones."""
    tags = {tag: label["ext"] for tag, label in entry["labels"].items() if tag != ORIGINAL}
    files = [store.label_path(image_id, tag, extension) for tag, extension in tags.items()]
    return {number_of(read_volume(file).array): sha256_of(file) for file in files}


def without_former_version(saves: Sequence[Mapping[str, Any]], objects: Mapping[str, Any]) -> list[str]:
    """Return the saves, a line each, of a case that had been saved before and whose former label is not told or there.

    Args:
        saves: events of the history, oldest first.
        objects: of the store.
    """
    lines, begun = [], set()
    for save in saves:
        image_id, replaced = save["image_id"], save.get("replaced")
        if image_id in begun and not replaced:
            lines.append(f"{image_id}: the save at {save['at']} names no former version")
        elif replaced and replaced not in objects[image_id]["labels"]:
            lines.append(f"{image_id}: {replaced}, replaced at {save['at']}, is not there")
        begun.add(image_id)
    return lines


def scan_of(studies: Path, image_id: str) -> Path:
    """Return a scan's file."""
    store = ReviewStore(studies)
    return store.image_path(image_id, store.read()["objects"][image_id])


def wait_for(state: Saves, saves: int) -> None:
    """Return once so many saves were acknowledged.

    Raises:
        TimeoutError: none was for four minutes.
    """
    count, since = state.count(), time.monotonic()
    while count < saves:
        time.sleep(0.05)
        if state.count() > count:
            count, since = state.count(), time.monotonic()
        if time.monotonic() - since > START_SECONDS:
            raise TimeoutError(f"no save acknowledged for {START_SECONDS:.0f} s")


def start_server(run: Path, studies: Path, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own and return it once it answers.

    Raises:
        TimeoutError: it does not.
    """
    command = server_arguments(run, studies, port, "127.0.0.1")
    environment = {**server_environment(), "MONAI_LABEL_SESSION_PATH": str(folder / "sessions")}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=30):
                return server
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"the server did not start:\n{(folder / 'server.log').read_text()[-2000:]}")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def slicer_client_module() -> Any:
    """Load 3D Slicer's client from the data of MONAI Label's package."""
    unpacked = Path(sysconfig.get_paths()["purelib"]).glob("monailabel-*.data/data/monailabel")
    file = next(root / CLIENT for root in (*unpacked, Path(sys.prefix) / "monailabel") if (root / CLIENT).is_file())
    spec = importlib.util.spec_from_file_location("client", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    run_command(main)
