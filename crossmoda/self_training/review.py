"""The clinician's side of the loop: pseudo-labels out to MONAI Label and 3D Slicer, reviewed labels back.

``publish`` puts a run's pseudo-labels beside its target scans, ``collect`` reads what people made of them, and
``serve_command`` starts the server that 3D Slicer talks to.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.datalist import load_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.volumes import case_name, read_grid, read_volume, same_grid, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, sha256_of
from crossmoda.labels import model_labels
from crossmoda.self_training.frozen_reviews import APPROVED, CORRECTED, FLAGGED
from crossmoda.self_training.review_access import require_safe_host
from crossmoda.self_training.review_changes import started_from
from crossmoda.self_training.review_events import OWN_FACTS
from crossmoda.self_training.review_info import meta_of
from crossmoda.self_training.review_labels import (
    GRID_TOLERANCE_MM,
    label_info_of,
    names_in_order,
    numbers_for,
    read_label,
    read_upload,
    renumber,
    stored_values,
)
from crossmoda.self_training.review_order import ANATOMY, case_measures, case_remarks, measures_of
from crossmoda.self_training.review_store import (
    DICOMWEB,
    FINAL,
    ORIGINAL,
    SERIES_FAULT,
    ReviewStore,
    check_tag,
    split_name,
    version_number,
)

logger = logging.getLogger(__name__)

VERDICTS = (APPROVED, FLAGGED)  # what a reviewer may say of a label
APP = Path(__file__).resolve().parents[2] / "apps" / "crossmoda_label"


@dataclass(frozen=True)
class Reviewed:
    """A case's label as a person left it.

    Args:
        case: the target case.
        image: its scan in the store.
        label: the label file.
        status: ``approved`` (a reviewer agrees), ``flagged`` (not to be learnt from) or ``corrected`` (saved by an
            annotator and not judged; the Reviewer module's ``segmented`` says the same).
        who: reviewer, user or client that spoke last; empty where nobody said.
        when: ISO 8601, UTC.
        sha256: of the label file's bytes.
        tag: the tag that the label has in the store.
        values: structure -> voxel value in the label file.
    """

    case: str
    image: Path
    label: Path
    status: str
    who: str
    when: str
    sha256: str
    tag: str
    values: Mapping[str, int]

    def voxels(self, structures: Sequence[str]) -> np.ndarray:
        """Return the label map (X, Y, Z) uint8 on the scan's grid, numbered as ``model_labels(structures)``.

        Raises:
            CrossmodaError: the label is unreadable, on another grid, or cannot be expressed in these structures.
        """
        what = str(self.label)
        label, _ = read_label(self.label, self.image, what)
        present = [int(number) for number in np.flatnonzero(np.bincount(label.ravel(), minlength=256))]
        return renumber(label, numbers_for(structures, self.values, present, what), what)


def read_current(run: str | Path) -> dict[str, Any]:
    """Return a run's ``current.json``: its latest finished round.

    Raises:
        CrossmodaError: the folder holds no finished round.
    """
    file = Path(run) / "current.json"
    if not file.is_file():
        raise CrossmodaError(f"{file}: no finished round there; run the self-training bundle or name its output_dir")
    return read_json(file)


def publish(run: str | Path, studies: str | Path) -> int:
    """Put the current round's pseudo-labels (tag ``original``) beside the target scans and return the number of cases.

    Scans are hard links where the disk allows. In a folder whose scans come from a DICOMweb server, the cases that are
    named by their SeriesInstanceUID get pseudo-labels, the others are left out. After a new round the same call
    refreshes the pseudo-labels of cases that nobody has touched; a case with a label or a verdict by a person stays as
    that person saw it.

    Raises:
        CrossmodaError: the run has no finished round, or the folder holds other scans under the same names.
    """
    run = Path(run)
    current = read_current(run)
    items = _target_items(run, current)
    measures, remarks = case_measures(run, current), case_remarks(run, current)
    store = ReviewStore(studies)
    store.recover()
    published = 0
    with store.edit() as model:
        for item in items:
            about = {key: value for key, value in {"case": item["case"], "site": item.get("site")}.items() if value}
            found = {**measures_of(item["case"], measures), ANATOMY: remarks.get(item["case"], [])}
            image_id = _enter_scan(store, model, item, {**about, **found})
            label = run / current["predictions"] / f"{item['case']}{LABEL_SUFFIX}"
            if image_id is None:
                continue
            published += 1
            if label.is_file():
                _refresh_original(store, model, image_id, label, {**_provenance(current), **found})
    return published


def _target_items(run: Path, current: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the run's target cases; the datalist of a round 0 names none, since that round learns from none."""
    items = load_datalist(run / current["datalist"])["target"]
    dataset = run / "dataset.json"
    return items or (load_datalist(dataset)["target"] if dataset.is_file() else [])


def _enter_scan(
    store: ReviewStore, model: dict[str, Any], item: Mapping[str, Any], info: Mapping[str, Any]
) -> str | None:
    """Enter a target case's scan into the store and return its id; None where a DICOMweb server has no such series."""
    scan = Path(item["image"])
    if DICOMWEB not in model:
        image_id, _ = split_name(scan.name)
        store.add_image(model, scan, image_id, info)
        return image_id
    entry = model["objects"].get(item["case"])
    if entry is None or SERIES_FAULT in entry["image"]["info"]:
        return None
    if not same_grid(scan, store.image_path(item["case"], entry), GRID_TOLERANCE_MM):
        logger.warning("a case is of another grid than its series on the server; it gets no pseudo-label")
        return None
    entry["image"]["info"].update(info)
    return str(item["case"])


def store_prediction(
    store: ReviewStore, image_id: str, label: Path, current: Mapping[str, Any], info: Mapping[str, Any]
) -> None:
    """Make a label that the served model predicted a case's ``original``, unless a person has touched the case.

    Args:
        store: where to.
        image_id: the scan's id, known to the store.
        label: the predicted ``.nii.gz``, numbered as ``model_labels(structures)``.
        current: the run's ``current.json``.
        info: anything else to be said of the label.
    """
    with store.edit() as model:
        _refresh_original(store, model, image_id, label, {**info, **_provenance(current)})


def _provenance(current: Mapping[str, Any]) -> dict[str, Any]:
    values = model_labels(current["structures"])
    return {
        "model": current["segmenter"],
        "round": current["round"],
        "structures": list(current["structures"]),
        "values": values,
        "label_info": label_info_of(values),
        "params": {"label_names": values},  # 3D Slicer's module names the segments of a pseudo-label by this
    }


def _refresh_original(
    store: ReviewStore, model: dict[str, Any], image_id: str, label: Path, info: Mapping[str, Any]
) -> None:
    labels = model["objects"][image_id]["labels"]
    former = labels.get(ORIGINAL, {}).get("info", {})
    touched = any(tag != ORIGINAL for tag in labels) or status_of(former) in VERDICTS
    same = former.get("sha256") == sha256_of(label) and all(former.get(key) == value for key, value in info.items())
    if not same and not (touched and former):
        store.put_label(model, image_id, ORIGINAL, label, info)


def collect(studies: str | Path, structures: Sequence[str]) -> dict[str, Reviewed]:
    """Return each case's label as people left it; cases that nobody has touched are not among them.

    A label that a reviewer approved counts before any other, then the newest one that a person saved; pseudo-labels
    count only if a reviewer approved or flagged them.

    Args:
        studies: the folder of the store.
        structures: of the run. The labels returned are numbered as ``model_labels(structures)``; one that is stored in
            other numbers is given as a converted copy in the folder's ``.collected``. Flagged labels come unchecked.

    Raises:
        CrossmodaError: the folder is missing, or a label is unreadable, on another grid than its scan or of
            unknown values.
    """
    if not Path(studies).is_dir():
        raise CrossmodaError(f"{studies}: no such folder; publish the run's pseudo-labels there first")
    store = ReviewStore(studies)
    objects = store.recover()["objects"]
    of_run = {entry["image"]["info"].get("case") for entry in objects.values()}
    found: dict[str, Reviewed] = {}
    for image_id, entry in objects.items():
        tag = deciding_tag(entry["labels"])
        if tag is None:
            continue
        reviewed = label_in_store(store, image_id, entry, tag, structures)
        if reviewed.case in of_run and not entry["image"]["info"].get("case"):
            continue  # a scan that somebody uploaded, whose name is like that of one of the run's
        found[reviewed.case] = reviewed if reviewed.status == FLAGGED else _in_numbers_of(structures, reviewed, store)
    return found


def _in_numbers_of(structures: Sequence[str], reviewed: Reviewed, store: ReviewStore) -> Reviewed:
    voxels, numbers = reviewed.voxels(structures), model_labels(structures)
    if np.array_equal(voxels, read_volume(reviewed.label).array):
        return replace(reviewed, values=numbers)
    copy = store.folder / ".collected" / f"{reviewed.case}{LABEL_SUFFIX}"
    write_volume(copy, voxels, read_grid(reviewed.image).affine, dtype=np.uint8)
    return replace(reviewed, label=copy, sha256=sha256_of(copy), values=numbers)


def has_verdict(entry: Mapping[str, Any]) -> bool:
    """Tell whether a person has saved a label for an object of the store, or judged its pseudo-label."""
    return deciding_tag(entry["labels"]) is not None


def label_in_store(
    store: ReviewStore, image_id: str, entry: Mapping[str, Any], tag: str, structures: Sequence[str]
) -> Reviewed:
    """Return what the store knows of one label of an object that has it."""
    info = entry["labels"][tag]["info"]
    meta = meta_of(info)
    path = store.label_path(image_id, tag, entry["labels"][tag]["ext"])
    image = store.image_path(image_id, entry)
    return Reviewed(
        case=entry["image"]["info"].get("case") or case_name(image),
        image=image,
        label=path,
        status=status_of(info) or CORRECTED,
        who=str(meta.get("approvedBy") or info.get("user") or info.get("client_id") or ""),
        when=when_of(info, meta),
        sha256=sha256_of(path),
        tag=tag,
        values=values_of(info, structures, str(path)),
    )


def deciding_tag(labels: Mapping[str, Any]) -> str | None:
    """Return the tag whose label speaks for a case, given its labels in the store, or None where no person has."""
    said = {tag: status_of(label["info"]) for tag, label in labels.items() if not label["info"].get("archived_from")}
    people = sorted((tag for tag in said if tag != ORIGINAL), key=lambda tag: _age_key(tag, labels[tag]["info"]))
    approved = [tag for tag in people if said[tag] == APPROVED]
    if approved or people:
        return (approved or people)[-1]
    return ORIGINAL if said.get(ORIGINAL) in VERDICTS else None


def _age_key(tag: str, info: Mapping[str, Any]) -> tuple[int, int, int]:
    return int(info.get("ts") or 0), tag == FINAL, version_number(tag)


def status_of(info: Mapping[str, Any]) -> str:
    """Return a reviewer's verdict on a label, given its info: ``approved``, ``flagged`` or empty."""
    status = str(meta_of(info).get("status") or "").lower()
    return status if status in VERDICTS else ""


def when_of(info: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Return when a label was judged, or else saved: ISO 8601, UTC; 1970 where neither is a time."""
    for seconds in (meta.get("editTime"), info.get("ts"), 0):
        if isinstance(seconds, (int, float)):
            with suppress(ValueError, OverflowError, OSError):  # not finite, or of no year that a date can have
                return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
    raise AssertionError("0 is a time")


def values_of(info: Mapping[str, Any], structures: Sequence[str], what: str) -> dict[str, int]:
    """Return structure -> voxel value of a label in the store, also of one that another server stored there."""
    if info.get("values"):
        return {str(name): int(value) for name, value in info["values"].items()}
    values = stored_values(structures)
    if info.get("label_info"):
        return {name: value for value, name in names_in_order(info["label_info"], values, what).items()}
    return values


def store_upload(
    store: ReviewStore, image_id: str, tag: str, file: Path, info: Mapping[str, Any], structures: Sequence[str]
) -> str:
    """Check a label that a client sent, store it in the store's own numbers, and return the tag that it got.

    What a person saves under ``original`` becomes ``final``: the next round's pseudo-labels would otherwise replace it.

    Args:
        store: where to.
        image_id: the scan's id.
        tag: ``final`` or ``version_N``, or ``original``.
        file: as received.
        info: as received; kept, with ``label_info`` rewritten to the voxel values stored.
        structures: of the run.

    Raises:
        CrossmodaError: the scan is unknown or the label cannot be accepted; nothing is stored then.
    """
    objects = store.read()["objects"]
    if image_id not in objects:
        raise CrossmodaError(f"image '{image_id[:60]}': not in the store; ask for the next sample again")
    tag = FINAL if tag == ORIGINAL else check_tag(tag)
    image = store.image_path(image_id, objects[image_id])
    label, affine = read_upload(file, image, info.get("label_info"), structures, f"label for '{image_id}'")
    values = stored_values(structures)
    used = max(len(structures), int(label.max()))
    names = [name for name, number in values.items() if number <= used]
    own = (*OWN_FACTS, "archived_from", "archived", "recovered")
    kept = {key: value for key, value in info.items() if key not in own}
    kept |= {"values": {name: values[name] for name in names}, "label_info": label_info_of(values, names)}
    kept["started_from"] = started_from(store, image_id, objects[image_id], kept, label, affine, structures)
    accepted = store.folder / ".incoming" / f"{uuid.uuid4().hex}{LABEL_SUFFIX}"
    try:
        write_volume(accepted, label, affine, dtype=np.uint8)
        with store.edit() as model:
            if image_id not in model["objects"]:
                raise CrossmodaError(f"image '{image_id}': deleted in the meantime; ask for the next sample again")
            store.put_label(model, image_id, tag, accepted, kept)
    finally:
        accepted.unlink(missing_ok=True)
    return tag


def review_command(run: str | Path, studies: str | Path | None = None) -> None:
    """Publish a run's pseudo-labels and print what has been reviewed, case by case.

    Args:
        run: the run folder.
        studies: the folder under review, by default ``run/review``.
    """
    folder = Path(studies) if studies else Path(run) / "review"
    cases = publish(run, folder)
    reviews = collect(folder, read_current(run)["structures"])
    for case, reviewed in sorted(reviews.items()):
        print(f"  {case}: {reviewed.status}" + (f" by {reviewed.who}" if reviewed.who else "") + f", {reviewed.when}")
    count = Counter(reviewed.status for reviewed in reviews.values())
    said = ", ".join(f"{count[status]} {status}" for status in (APPROVED, CORRECTED, FLAGGED))
    entries = ReviewStore(folder).read()["objects"].values()
    left = sum(bool(entry["image"]["info"].get("case")) and not has_verdict(entry) for entry in entries)
    print(f"{folder}: {cases} cases; {said}, {left} not reviewed yet")


def server_arguments(run: Path, studies: Path | str, port: int, host: str) -> list[str]:
    """Return the command that starts MONAI Label on a run; ``studies`` is a folder, or a DICOMweb server's address."""
    return [
        *(sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--studies", str(studies)),
        *("--conf", "run", str(run), "--host", host, "--port", str(port)),
    ]


def server_environment() -> dict[str, str]:
    """Return the environment of the server, without search paths that would put other packages before its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def serve_command(
    run: str | Path,
    port: int = 8000,
    host: str = "127.0.0.1",
    studies: str | Path | None = None,
    dicomweb: str = "",
    scans: str | Path = "",
) -> int:
    """Publish a run's pseudo-labels and serve them to 3D Slicer until interrupted; return the exit status.

    Args:
        run: the run folder.
        port: to listen at.
        host: address to bind to; another than this machine's own needs people with passwords (``add_user``).
        studies: the folder to serve, by default ``run/review``.
        dicomweb: address of a DICOMweb server whose series are served instead of the run's own scans; the folder
            mirrors it.
        scans: hrT2 scans that a new run labels with given weights before it is served (``begin_run``).

    Raises:
        CrossmodaError: MONAI Label is not installed, the port is taken, the run has no finished round, the folder holds
            scans from elsewhere, or the host is another than this machine and nobody would be asked for a password;
            with ``scans``, as ``begin_run``.
    """
    if find_spec("monailabel") is None:
        raise CrossmodaError("monailabel: not installed; install the project with its 'label' extra (make demo does)")
    run = Path(run).resolve()
    folder = Path(studies).resolve() if studies else run / "review"
    require_safe_host(host, folder)
    _require_free(host, port)
    if scans:
        from crossmoda.self_training.from_weights import begin_run  # what a server never needs

        begin_run(run, scans)
    if dicomweb:
        _take_folder(run, folder, dicomweb)
        print(f"Series of {dicomweb} are fetched into {folder}; the viewer OHIF: http://{host}:{port}/ohif/")
    else:
        print(f"{publish(run, folder)} cases of {run} are ready for review in {folder}.")
    print(f"Starting MONAI Label at http://{host}:{port} (about 20 s; stop with Ctrl-C).")
    print(f"In 3D Slicer: module 'MONAI Label', enter http://{host}:{port} as server, press the green arrows, then")
    print("'Next Sample', correct the segments, 'Submit Label'. Module 'MONAILabelReviewer' approves and flags.")
    print(f"Without 3D Slicer: look at all cases and judge them at http://{host}:{port}/crossmoda/triage", flush=True)
    command = server_arguments(run, dicomweb or folder, port, host)
    command += ["--conf", "review", str(folder)] if dicomweb else []
    try:
        return subprocess.run(command, cwd=APP.parents[1], env=server_environment(), check=False).returncode
    except KeyboardInterrupt:
        return 0


def _take_folder(run: Path, folder: Path, address: str) -> None:
    from crossmoda.self_training.review_dicomweb import take_folder  # needs packages that come with MONAI Label

    if not address.startswith(("http://", "https://")):
        raise CrossmodaError(f"--dicomweb {address}: no address; write http://HOST:PORT/dicom-web")
    read_current(run)
    take_folder(ReviewStore(folder), address)


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CrossmodaError(f"{host}:{port}: not free ({error.strerror}); give another --port") from error
