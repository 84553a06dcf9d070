"""Time what a clinician waits for, through a live server with 3D Slicer's client: ``python scripts/bench_review.py``.

A run is made up: the segmentation bundle's own network with random weights that find next to nothing, as trained ones
do, one whole hrT2 scan, and many small ones to choose the next case from. The server is that of ``python -m crossmoda
serve``. Beside each figure stand its goal, where it has one, and the time that the server's processor cores took, which
tells more than the clock where other programs run. Exit status 0 only if all goals are reached. Nothing is downloaded.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import SCAN_FOLDER, SPACING_MM, mostly_background, whole_scan
from kill_server import free_port, slicer_client_module, start_server

from crossmoda.command_line import run_command
from crossmoda.data.volumes import write_volume
from crossmoda.engines import save_weights
from crossmoda.files import write_json
from crossmoda.self_training import BundleUse

BUNDLE = Path("bundles/vs_cochlea_hrt2_segmentation")
MODEL = "vs_cochlea_hrt2_segmentation"  # name in the app
STRUCTURES = ("vs", "cochlea")
SMALL_SCAN = (16, 16, 8)
RESULT = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # what 3D Slicer's module asks for


@dataclass(frozen=True)
class Figure:
    """What was measured.

    Args:
        what: title.
        value: in ``unit``.
        unit: s or GB.
        goal: what it should at most be; None where there is none.
        cores_seconds: of processor time that the server took; None where that says nothing.
    """

    what: str
    value: float
    unit: str
    goal: float | None = None
    cores_seconds: float | None = None

    @property
    def reached(self) -> bool:
        """Tell whether the goal is reached."""
        return self.goal is None or self.value <= self.goal

    def __str__(self) -> str:
        """Return a line of the table."""
        cores = "" if self.cores_seconds is None else f"{self.cores_seconds:.2f} s"
        goal, said = ("", "") if self.goal is None else (f"{self.goal:.1f}", "reached" if self.reached else "missed")
        return f"{self.what:<54}{self.value:>9.2f} {self.unit:<3}{cores:>9}{goal:>7}  {said}".rstrip()


def main(cases: int = 1000, repetitions: int = 5) -> None:
    """Start the server, ask, and print a table.

    Args:
        cases: under review, one of which is a whole scan.
        repetitions: of each question; a prediction's first is not counted.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench_review_"))
    try:
        run = write_run(folder, cases)
        threads = os.environ.get("OMP_NUM_THREADS", "all")
        print(f"{os.cpu_count()} cores, threads: {threads}, torch {torch.__version__}, median of {repetitions}\n")
        print(f"{'what':<54}{'measured':>12} {'cores':>9}{'goal':>7}")
        figures = measured(run, folder, cases, repetitions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(figure.reached for figure in figures) else 1)


def write_run(folder: Path, cases: int) -> Path:
    """Write a run with a finished round, and return it; the least certain case is the whole scan."""
    os.environ[SCAN_FOLDER] = str(folder)
    run, scans = folder / "run", folder / "scans"
    scans.mkdir()
    small = scans / "small_0_hrT2.nii.gz"
    write_volume(small, np.random.default_rng(0).gamma(2, 50, SMALL_SCAN).astype(np.float32), np.diag([*SPACING_MM, 1]))
    images = [whole_scan(), small]
    for number in range(1, cases - 1):
        images.append(small.with_name(f"small_{number}_hrT2.nii.gz"))
        os.link(small, images[-1])
    items = [
        {"case": image.name.removesuffix("_hrT2.nii.gz"), "site": "unknown", "image": str(image)} for image in images
    ]
    place = run / "round_0"
    use = BundleUse(str(BUNDLE), inference_overlays=("uncertainty.yaml",))
    torch.manual_seed(0)
    network = use.parser("inference").get_parsed_content("network_def")
    save_weights(mostly_background(network), place / "segmenter" / "model.pt")
    datalist = {"edition": "plain", "labels": {"vs": 1, "cochlea": 2}, "source": [], "target": items, "validation": []}
    write_json(place / "datalist.json", datalist)
    write_json(place / "uncertainty" / "uncertainty.json", {item["case"]: 1 / (1 + i) for i, item in enumerate(items)})
    label = np.zeros(SMALL_SCAN, np.uint8)
    label[4:8, 4:8, 3:5], label[10:12, 10:12, 3:5] = 1, 2
    for item in items[1:]:
        path = place / "predictions" / f"{item['case']}_Label.nii.gz"
        write_volume(path, label, np.diag([*SPACING_MM, 1]), np.uint8)
    settings = {"root": str(BUNDLE.resolve()), "inference_overlays": ["uncertainty.yaml"]}
    places = {key: f"round_0/{key}" for key in ("predictions", "uncertainty")}
    places |= {"segmenter": "round_0/segmenter/model.pt", "datalist": "round_0/datalist.json"}
    about = {"structures": STRUCTURES, "segmentation_bundle": settings, "translators": {}}
    write_json(run / "current.json", {"round": 0, **about, **places})
    return run


def measured(run: Path, folder: Path, cases: int, repetitions: int) -> list[Figure]:
    """Start the server twice, since the first start links the scans, ask it all, and print each figure once known."""
    studies, port, figures = run / "review", free_port(), []

    def tell(*figure: Any) -> None:
        figures.append(Figure(*figure))
        print(figures[-1], flush=True)

    for start in (f"server start, the first with {cases} cases", f"server start with {cases} cases"):
        started = time.monotonic()
        server = start_server(run, studies, port, folder)
        tell(start, time.monotonic() - started, "s", 20.0, cores_seconds(server.pid))
        if len(figures) == 1:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    try:
        client = slicer_client_module().MONAILabelClient(f"http://127.0.0.1:{port}", str(folder), "bench")
        image = client.next_sample("uncertainty", {})["id"]
        times, cores = times_of(lambda: client.next_sample("uncertainty", {}), 4 * repetitions, server.pid)
        tell(f"next case of {cases}, median", statistics.median(times), "s", 0.2, cores)
        tell(f"next case of {cases}, slowest", max(times), "s")
        tell("memory of the server until then, most", peak_gb(server.pid), "GB")
        times, cores = times_of(lambda: client.infer(MODEL, image, RESULT), 1, server.pid)
        tell("click to mask, 448x448x80, the first", times[0], "s", None, cores)
        times, cores = times_of(lambda: client.infer(MODEL, image, RESULT), repetitions, server.pid)
        tell("click to mask, 448x448x80, median after the first", statistics.median(times), "s", 8.0, cores)
        tell("memory of the server, most", peak_gb(server.pid), "GB", 2.5)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    return figures


def times_of(work: Callable[[], object], repetitions: int, process: int) -> tuple[list[float], float]:
    """Return how many seconds each of some calls takes, and a process's mean processor time for one of them."""
    times, before = [], cores_seconds(process)
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times, (cores_seconds(process) - before) / repetitions


def cores_seconds(process: int) -> float:
    """Return the processor time that another process has taken so far, of all cores, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def peak_gb(process: int) -> float:
    """Return the most memory that another process has held, in GB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9


if __name__ == "__main__":
    run_command(main)
