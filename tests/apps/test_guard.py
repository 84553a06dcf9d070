"""What the live server refuses: malformed requests, other origins; and that slow work keeps nobody waiting.

The tests of this module share one server, whose files a refused request must leave as they are.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from filelock import FileLock

from crossmoda.files import sha256_of
from crossmoda.self_training.review import collect
from crossmoda.self_training.review_access import add_user
from crossmoda.self_training.review_history import history
from crossmoda.self_training.review_store import ReviewStore

from .conftest import AFFINES, SHAPE, STRUCTURES, Served, blocks, save_nifti, slicer_client, slicer_module

MODEL = "vs_cochlea_hrt2_segmentation"
IMAGE = "case.1_hrT2"
MARK = "Jane_Doe_1961"  # stands for what must never be logged
LABEL = "/datastore/label"

Files = dict[str, Any]


def nifti(array: np.ndarray, affine: np.ndarray = AFFINES["case.1"]) -> bytes:
    return gzip.compress(nib.nifti1.Nifti1Image(array, affine).to_bytes())


def lying_nowhere() -> bytes:
    """Return a scan whose header does not say where its second axis leads: the four numbers of srow_y are NaN."""
    data = bytearray(gzip.decompress(nifti(np.ones(SHAPE, np.float32))))
    data[296:312] = np.full(4, np.nan, np.float32).tobytes()
    return gzip.compress(bytes(data))


def billion_voxels() -> bytes:
    """Return a small scan whose header claims 1024 x 1024 x 1024 voxels."""
    data = bytearray(gzip.decompress(nifti(np.ones(SHAPE, np.float32))))
    data[42:48] = np.full(3, 1024, np.int16).tobytes()
    return gzip.compress(bytes(data))


def label(data: bytes | None = None, name: str = "label.nii.gz") -> Files:
    return {"label": (name, nifti(blocks(1, 2)) if data is None else data)}


def scan(name: str = "scan.nii.gz", data: bytes | None = None) -> Files:
    return {"file": (name, nifti(np.ones(SHAPE, np.float32)) if data is None else data)}


def case(name: str, method: str, path: str, statuses: int | tuple[int, ...], **arguments: Any) -> Any:
    return pytest.param(method, path, statuses, arguments, id=name)


def params(value: Any) -> dict[str, str]:
    return {"params": value if isinstance(value, str) else json.dumps(value)}


NAMING = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: /etc/passwd\n\n"
WITH_NAN = np.where(blocks(1, 2) > 0, np.nan, 0).astype(np.float32)
SHIFTED = AFFINES["case.1"] + np.array([[0, 0, 0, 5], [0] * 4, [0] * 4, [0] * 4])
BROKEN = {"headers": {"Content-Type": "multipart/form-data; boundary=x"}}
META = "/datastore/updatelabelinfo?label=case.1_hrT2&tag=original"
INFER = f"/infer/{MODEL}?image={IMAGE}"

MALFORMED = [
    case("traversal in a label's image", "PUT", f"{LABEL}?image=../../evil", 400, files=label()),
    case("absolute path as a label's image", "PUT", f"{LABEL}?image=/etc/passwd", 400, files=label()),
    case("zero byte in an image", "PUT", f"{LABEL}?image=a%00b", 400, files=label()),
    case("unknown image", "PUT", f"{LABEL}?image=nobody", 404, files=label()),
    case("no image", "PUT", LABEL, 422, files=label()),
    case("traversal in a tag", "PUT", f"{LABEL}?image={IMAGE}&tag=../../evil", 400, files=label()),
    case("a tag of another name", "PUT", f"{LABEL}?image={IMAGE}&tag=evil", 400, files=label()),
    case("encoded traversal in a tag", "PUT", f"{LABEL}?image={IMAGE}&tag=final%2F..%2Fx", 400, files=label()),
    case("broken multipart", "PUT", f"{LABEL}?image={IMAGE}", 400, data=b"--x\r\nno header", **BROKEN),
    case(
        "multipart without a boundary",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        (400, 422),
        data=b"a",
        headers={"Content-Type": "multipart/form-data"},
    ),
    case(
        "multipart cut off",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        (400, 422),
        data=(b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.nii.gz"\r\n\r\nabc'),
        **BROKEN,
    ),
    case("no label at all", "PUT", f"{LABEL}?image={IMAGE}", 422, data=params({})),
    case("huge params", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(), data=params({"a": "x" * 300_000})),
    case(
        "params over a megabyte",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        (400, 413),
        files=label(),
        data=params({"a": "x" * 3_000_000}),
    ),
    case("params that are no JSON", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(), data=params("{")),
    case("params that are a list", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(), data=params([1])),
    case("params with NaN", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(), data=params('{"a": NaN}')),
    case(
        "params nested too deep",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(),
        data=params('{"a":' * 9000 + "1" + "}" * 9000),
    ),
    case(
        "params with half a character",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(),
        data=params('{"a": "\\ud800"}'),
    ),
    case(
        "client_id that is an object",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(),
        data=params({"client_id": {"a": 1}}),
    ),
    case(
        "label_info that is text",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(),
        data=params({"label_info": "vs"}),
    ),
    case(
        "unknown segment",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(),
        data=params({"label_info": [{"name": MARK, "idx": 1}]}),
    ),
    case("label with NaN", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(nifti(WITH_NAN))),
    case(
        "label of four dimensions",
        "PUT",
        f"{LABEL}?image={IMAGE}",
        400,
        files=label(nifti(np.stack([blocks(1, 2)] * 2, axis=-1))),
    ),
    case("label of another shape", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(nifti(blocks(1, 2)[:-1]))),
    case("label at another place", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(nifti(blocks(1, 2), SHIFTED))),
    case("label of unknown values", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(nifti(blocks(9, 2)))),
    case("label that is text", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(b"hello")),
    case("label cut off", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(nifti(blocks(1, 2))[:-40])),
    case("empty label", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(b"")),
    case("label of another format", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(b"a", "label.txt")),
    case("file name of 300 letters", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(None, "a" * 300 + ".nii.gz")),
    case("upload over the limit", "PUT", f"{LABEL}?image={IMAGE}", 413, files=label(b"\0" * 2_100_000)),
    case("streamed upload over the limit", "PUT", f"{LABEL}?image={IMAGE}", 413, stream=2_100_000),
    case("unknown label deleted", "DELETE", f"{LABEL}?id={IMAGE}&tag=version_7", 404),
    case("traversal in a deletion", "DELETE", "/datastore/image?id=../run", 400),
    case("traversal in a download", "GET", f"{LABEL}?label=../../x&tag=final", 400),
    case("traversal in a download's tag", "GET", f"{LABEL}?label={IMAGE}&tag=..", 400),
    case("scan of an absolute path", "GET", "/datastore/image?image=/etc/passwd", 400),
    case("info of an unknown scan", "GET", "/datastore/image/info?image=nobody", 404),
    case("checksum of no kind", "HEAD", f"/datastore/image?image={IMAGE}&check_sum=evil:1", 400),
    case("scan under a traversal", "PUT", "/datastore/image?image=../../evil", 400, files=scan()),
    case("scan with a traversal as its name", "PUT", "/datastore/image", 400, files=scan("../../..nii.gz")),
    case("scan that is text", "PUT", "/datastore/image?image=new", 400, files=scan(data=b"hello")),
    case("scan that lies nowhere", "PUT", "/datastore/image?image=new", 400, files=scan(data=lying_nowhere())),
    case(
        "scan of another case",
        "PUT",
        "/datastore/image?image=new",
        400,
        files=scan(),
        data=params({"case": "../../evil"}),
    ),
    case(
        "info that moves a case",
        "PUT",
        f"/datastore/image/info?image={IMAGE}",
        400,
        data={"info": '{"case": "../../evil"}'},
    ),
    case("verdict that is a list", "PUT", META, 400, data=params({"segmentationMeta": []})),
    case("verdict at no time", "PUT", META, 400, data=params({"segmentationMeta": {"editTime": 1e300}})),
    case("huge form", "PUT", META, (400, 413), data=params({"a": "x" * 1_200_000})),
    case("verdict at several times", "PUT", META, 400, data=params({"segmentationMeta": {"editTime": [1]}})),
    case("scan that names another file", "PUT", "/datastore/image?image=new", 400, files=scan("a.nrrd", NAMING)),
    case("label that names another file", "PUT", f"{LABEL}?image={IMAGE}", 400, files=label(NAMING, "a.nrrd")),
    case("inference of a file that names another", "POST", f"/infer/{MODEL}", 422, files=scan("a.nrrd", NAMING)),
    case("scan of a billion voxels", "PUT", "/datastore/image?image=new", 400, files=scan(data=billion_voxels())),
    case("unknown model", "POST", f"/infer/no_model?image={IMAGE}", 404),
    case("another model in params", "POST", INFER, 400, data=params({"model": "pseudo_hrt2_cyclegan"})),
    case("model that is an object", "POST", INFER, 400, data=params({"model": {"a": 1}})),
    case("compression that is an object", "POST", INFER, 400, data=params({"result_compress": {"a": 1}})),
    case("model with a traversal", "POST", f"/infer/..%5C..?image={IMAGE}", 400),
    case("inference of a path", "POST", f"/infer/{MODEL}?image=/etc/passwd", 404),
    case("inference of a path in params", "POST", INFER, 404, data=params({"image": "/etc/passwd"})),
    case("inference of nothing", "POST", f"/infer/{MODEL}", 400),
    case("result in another folder", "POST", INFER, 400, data=params({"result_extension": "/../../x.nii.gz"})),
    case("result of no type", "POST", INFER, 400, data=params({"result_dtype": "object"})),
    case("inference without a file", "POST", INFER, 400, data=params({"result_write_to_file": False})),
    case("inference with DICOM SEG of a folder", "POST", f"{INFER}&output=dicom_seg", 400),
    case("whole-slide inference", "POST", f"/infer/wsi/{MODEL}?image=/etc/passwd", 404, json={}),
    case("session outside", "GET", "/session/..", 404),
    case("session outside in an inference", "POST", f"/infer/{MODEL}?session_id=../x", 404),
    case("archive as a session", "PUT", "/session/?uncompress=true", 400, files={"files": ("a.zip", b"x")}),
    case("session named by its parent", "PUT", "/session/", 400, files={"files": ("..", b"x")}),
    case("session of no scan", "PUT", "/session/", 400, files={"files": ("meta.info", b"{}")}),
    case(
        "session of two files",
        "PUT",
        "/session/",
        400,
        files=[("files", ("a.nii.gz", nifti(blocks(1, 2)))), ("files", ("b.nii.gz", b"x"))],
    ),
    case("strategy that is an object", "POST", "/activelearning/first", 400, json={"strategy": {"a": 1}}),
    case("unknown strategy", "POST", "/activelearning/none", 404, json={}),
    case(
        "strategy with NaN",
        "POST",
        "/activelearning/first",
        400,
        data='{"client_id": NaN}',
        headers={"Content-Type": "application/json"},
    ),
    case("strategy with a list", "POST", "/activelearning/first", 422, json=[1]),
    case("training of a path", "POST", "/train/next_round", 400, json={"bundle_path": "/tmp"}),
    case("training in the server", "POST", "/train/next_round?run_sync=true", 400, json={}),
    case("training of an unknown model", "POST", "/train/none", 404, json={}),
    case("batch of an unknown model", "POST", "/batch/infer/none", 404, json={}),
    case("unknown score", "POST", "/scoring/none", 404, json={}),
    case("model replaced", "PUT", f"/model/{MODEL}", 403, files=scan("model.pt")),
    case("model deleted", "DELETE", f"/model/{MODEL}", 403),
    case("unknown model's weights", "GET", "/model/none", 404),
    case("log without passwords", "GET", "/logs/", 403),
    case("archive of nothing", "GET", "/datastore/dataset", 404),
    case("proxy without DICOMweb", "GET", "/proxy/dicom/wado/../system", 404),
    case("viewer's page outside", "GET", "/ohif/..%2f..%2fx", 404),
    case("form of another origin", "POST", INFER, 403, headers={"Origin": "http://elsewhere.example"}),
    case("origin that is no address", "POST", INFER, 403, headers={"Origin": "http://[::1"}),
    case("another name of this machine", "GET", "/info/", 403, headers={"Host": "rebound.example"}),
    case("method that is not there", "PATCH", "/info/", 405),
    case("path that is not there", "GET", "/nowhere", 404),
]


@pytest.fixture(scope="module")
def server_settings() -> dict[str, str]:
    return {"max_upload_mb": "2"}


def tree(folder: Path) -> dict[str, str]:
    """Return every file's name and hash, but for the locks, the audit's own and what Python keeps."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "server.log"))
    return {str(path.relative_to(folder)): sha256_of(path) for path in files if "audit.sqlite" not in path.name}


def send(url: str, method: str, path: str, arguments: dict[str, Any]) -> requests.Response:
    """Send a request as it is: ``..`` and the like are not tidied away."""
    arguments = dict(arguments)
    if "stream" in arguments:
        body = b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.nii.gz"\r\n\r\n'
        size = arguments.pop("stream")
        arguments |= {"data": iter([body, *[b"\0" * 100_000] * (size // 100_000)]), **BROKEN}
    request = requests.Request(method, url, **arguments).prepare()
    request.url = url + path
    with requests.Session() as session:
        return session.send(request, timeout=60)


@pytest.mark.parametrize(("method", "path", "statuses", "arguments"), MALFORMED)
def test_a_malformed_request_is_refused_with_a_reason_and_changes_nothing(
    served: Served, method: str, path: str, statuses: int | tuple[int, ...], arguments: dict[str, Any]
) -> None:
    before = tree(served.run.parent)
    answer = send(served.url, method, path, arguments)
    assert answer.status_code in (statuses if isinstance(statuses, tuple) else (statuses,)), answer.text
    if method != "HEAD":
        reason = answer.json()["detail"]
        assert isinstance(reason, str)
        assert len(reason) >= 8
        assert "\n" not in reason
        assert str(served.run.parent) not in reason
    assert tree(served.run.parent) == before


def test_there_are_at_least_fifty_malformed_requests() -> None:
    assert len(MALFORMED) >= 50


def test_after_them_the_server_works_as_before_and_has_logged_no_names(served: Served, slicer: Any) -> None:
    assert slicer.info()["datastore"] == {"total": 3, "completed": 0, "label_tags": {"original": 3}}
    assert slicer.next_sample("first", {"comment": MARK})["id"] == IMAGE
    slicer.infer(MODEL, IMAGE, {"comment": MARK, "save_label": True})
    said = params({"segmentationMeta": {"comment": MARK}})
    assert requests.put(served.url + META, data=said, timeout=60).status_code == 200
    listed = requests.get(f"{served.url}/docs", timeout=60).text
    assert "<code>/datastore/label</code></td><td>Save Finished Label</td>" in listed
    assert "/infer/wsi" not in listed
    log = served.log.read_text()
    assert MARK not in log
    assert IMAGE not in log  # names of scans may name patients


def answers_while(served: Served, seconds: float, start: Callable[[], None]) -> tuple[list[float], float]:
    """Return how long ``/info/`` took again and again while something waits for the store, and how long that took."""
    took: list[float] = []

    def run() -> None:
        began = time.monotonic()
        start()
        took.append(time.monotonic() - began)

    slow = threading.Thread(target=run)
    waited = []
    with FileLock(served.studies / ".lock"):  # as a save to a slow disk would hold it
        slow.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            assert requests.get(f"{served.url}/info/", timeout=30).status_code == 200
            waited.append(time.monotonic() - began)
            time.sleep(0.1)
    slow.join()
    return waited, took[0]


def require_quick(waited: list[float]) -> None:
    """Half a second, once excepted: on a busy machine Python may be at work on the other request for a moment."""
    assert sorted(waited)[-2] < 0.5
    assert max(waited) < 2.5


def test_a_save_of_five_seconds_keeps_nobody_waiting(served: Served, tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "label.nii.gz", blocks(1, 2), AFFINES["case.2"])
    client = slicer_client(served, tmp_path)
    info = [{"name": name, "idx": index} for index, name in enumerate(STRUCTURES, start=1)]
    waited, took = answers_while(
        served, 5, lambda: client.save_label("case.2_hrT2", str(file), params={"label_info": info})
    )
    assert took >= 5
    assert len(waited) >= 8
    require_quick(waited)
    assert "final" in client.datastore()["objects"]["case.2_hrT2"]["labels"]


def test_an_inference_of_five_seconds_keeps_nobody_waiting(served: Served, tmp_path: Path) -> None:
    client = slicer_client(served, tmp_path)
    client.infer(MODEL, IMAGE, {})  # the first one imports
    waited, took = answers_while(served, 5, lambda: client.infer(MODEL, IMAGE, {"save_label": True}))
    assert took >= 5
    require_quick(waited)


def test_corrupt_scans_are_never_handed_out_and_say_why(served: Served, slicer: Any) -> None:
    whole = nifti(np.random.default_rng(0).random(SHAPE, np.float32))
    four = nifti(np.ones((*SHAPE, 2), np.float32))
    corrupt = {"a_cut_hrT2": whole[:-200], "a_four_hrT2": four, "a_nowhere_hrT2": lying_nowhere(), "a_text_hrT2": b"no"}
    for name, data in corrupt.items():
        (served.studies / f"{name}.nii.gz").write_bytes(data)
    ReviewStore(served.studies).recover()  # as at the server's start
    assert set(corrupt) <= set(slicer.datastore()["objects"])
    assert slicer.next_sample("first", {})["id"] == IMAGE  # all four come before it by name
    objects = slicer.datastore()["objects"]
    said = {name: objects[name]["image"]["info"]["quarantined"] for name in corrupt}
    assert "damaged" in said["a_cut_hrT2"]
    assert "4D" in said["a_four_hrT2"]
    assert "affine" in said["a_nowhere_hrT2"]
    assert "damaged" in said["a_text_hrT2"]
    assert "quarantined" not in objects[IMAGE]["image"]["info"]
    for name in corrupt:
        answer = requests.post(f"{served.url}/infer/{MODEL}?image={name}", timeout=60)
        assert answer.status_code == 422
        assert answer.json()["detail"] == f"{name}: {said[name]}"
    (served.studies / "a_cut_hrT2.nii.gz").write_bytes(whole)  # mended
    assert requests.post(f"{served.url}/infer/{MODEL}?image=a_cut_hrT2", timeout=60).status_code == 200
    assert slicer.next_sample("first", {})["id"] == "a_cut_hrT2"


PASSWORDS = {"anna": "annotator's secret", "Dr. Berg": "reviewer's secret", "eve": "engineer's secret"}


@pytest.fixture(scope="module")
def users(served: Served) -> Path:
    """The server asks for passwords from now on, without a restart."""
    for (name, password), role in zip(PASSWORDS.items(), ("annotator", "reviewer", "engineer"), strict=True):
        add_user(served.studies / ".users.json", name, role, password)
    return served.studies / ".users.json"


def ask(served: Served, method: str, path: str, name: str | None = None, **arguments: Any) -> int:
    auth = (name, PASSWORDS[name]) if name else None
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, served.url + path, auth=auth, timeout=60, **arguments).status_code


def signed_in(served: Served, folder: Path, name: str) -> Any:
    """Return Slicer's client, signed in as its module does it for every request."""
    client = slicer_client(served, folder)
    assert client.auth_enabled()
    client.update_auth(client.auth_token(name, PASSWORDS[name]))
    assert client.auth_valid_token()
    return client


def refusal(call: Callable[[], Any]) -> str:
    """Return the message that 3D Slicer shows when the server refuses a request."""
    try:
        call()
    except Exception as error:  # the client's own kind, which keeps its text in msg
        return str(error.msg)  # type: ignore[attr-defined]
    pytest.fail("the request was granted")


def test_without_a_password_nothing_is_answered(served: Served, users: Path, tmp_path: Path) -> None:
    assert ask(served, "GET", "/info/") == 401
    assert ask(served, "GET", "/datastore/?output=all") == 401
    wrong = requests.get(f"{served.url}/info/", auth=("anna", "a guess"), timeout=60)
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"].startswith("Basic")
    client = slicer_client(served, tmp_path)
    assert "Status: 401" in refusal(lambda: client.auth_token("anna", "a guess"))
    assert requests.get(f"{served.url}/info/", headers={"Authorization": "Bearer guess"}, timeout=60).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/info/", (200, 200, 200)),
        ("POST", "/activelearning/first", (200, 200, 200)),
        ("PUT", META, (403, 200, 200)),
        ("DELETE", f"{LABEL}?id=nobody&tag=final", (403, 404, 404)),
        ("POST", "/scoring/none", (403, 404, 404)),
        ("POST", "/train/none", (403, 403, 404)),
        ("POST", "/batch/infer/none", (403, 403, 404)),
        ("GET", "/logs/", (403, 403, 200)),
        ("GET", f"/model/{MODEL}", (403, 403, 200)),
        ("GET", "/datastore/dataset", (403, 403, 200)),
        ("PUT", "/unheard/of", (403, 403, 404)),
    ],
)
def test_each_role_may_do_its_own(
    served: Served, users: Path, method: str, path: str, statuses: tuple[int, int, int]
) -> None:
    assert tuple(ask(served, method, path, name) for name in PASSWORDS) == statuses


def test_a_save_carries_the_name_of_who_signed_in(served: Served, users: Path, tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "label.nii.gz", blocks(1, 2), AFFINES["case.3"])
    claims = {"user": "Dr. Berg", "label_info": [{"name": name, "idx": 1} for name in STRUCTURES]}
    signed_in(served, tmp_path, "anna").save_label("case.3_hrT2", str(file), params=claims)
    info = signed_in(served, tmp_path, "anna").datastore()["objects"]["case.3_hrT2"]["labels"]["final"]["info"]
    assert info["user"] == "anna"
    claims["segmentationMeta"] = {"status": "approved", "approvedBy": "Dr. Berg"}
    client = signed_in(served, tmp_path, "anna")
    assert "a verdict needs the role reviewer" in refusal(
        lambda: client.save_label("case.3_hrT2", str(file), params=claims)
    )


def test_the_reviewer_module_signs_in_by_netrc_and_its_verdict_carries_the_name(
    served: Served, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f'machine 127.0.0.1 login "Dr. Berg" password "{PASSWORDS["Dr. Berg"]}"\n')
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    reviewer = slicer_module("MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py").MonaiServerREST(served.url)
    meta = {"status": "approved", "approvedBy": "somebody else", "level": "easy", "comment": "", "editTime": 1767225600}
    assert reviewer.updateLabelInfo("case.3_hrT2", "final", {"segmentationMeta": meta}) == 200
    info = reviewer.requestDataStoreInfo()["objects"]["case.3_hrT2"]["labels"]["final"]["info"]
    assert info["segmentationMeta"] == {**meta, "approvedBy": "Dr. Berg"}
    assert info["user"] == "anna"  # who drew it
    assert collect(served.studies, STRUCTURES)["case.3"].who == "Dr. Berg"


def test_the_history_names_who_signed_in_and_is_shown_to_nobody_else(
    served: Served, users: Path, tmp_path: Path
) -> None:
    image_id = signed_in(served, tmp_path, "anna").next_sample("first", {})["id"]
    assert ask(served, "DELETE", f"{LABEL}?id=case.3_hrT2&tag=final", "Dr. Berg") == 200
    told = [(event["event"], event["image_id"], event.get("who")) for event in history(served.studies)]
    assert [(what, who) for what, image, who in told if image == "case.3_hrT2"][-3:] == [
        ("saved", "anna"),
        ("judged", "Dr. Berg"),
        ("label deleted", "Dr. Berg"),
    ]
    assert ("handed out", image_id, "anna") in told
    assert ask(served, "GET", "/crossmoda/history") == 401
    assert ask(served, "GET", "/crossmoda/history.csv") == 401
    assert ask(served, "GET", "/crossmoda/history", "anna") == 200


def test_slicer_fetches_scans_without_its_token_from_where_it_signed_in(served: Served, users: Path) -> None:
    assert ask(served, "GET", f"/datastore/image?image={IMAGE}") == 200
    assert ask(served, "GET", f"{LABEL}?label={IMAGE}&tag=original") == 401


def test_who_is_taken_off_the_list_is_signed_out_at_once(served: Served, users: Path, tmp_path: Path) -> None:
    client = signed_in(served, tmp_path, "eve")
    assert client.info()["labels"] == STRUCTURES
    add_user(users, "eve", "annotator", "a new password")
    assert not client.auth_valid_token()
    assert ask(served, "GET", "/logs/", "eve") == 401


def test_the_log_is_plain_text_and_loads_nothing(served: Served, users: Path) -> None:
    add_user(users, "eve", "engineer", PASSWORDS["eve"])
    answer = requests.get(f"{served.url}/logs/", auth=("eve", PASSWORDS["eve"]), timeout=60)
    assert answer.headers["content-type"].startswith("text/plain")
    assert "<script" not in answer.text


def test_guesses_are_counted(served: Served, users: Path) -> None:
    statuses = [requests.get(f"{served.url}/info/", auth=("anna", str(i)), timeout=60).status_code for i in range(12)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert ask(served, "GET", "/info/", "anna") == 200  # who has signed in before goes on working
