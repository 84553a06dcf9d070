"""The guard's parts by themselves: rules of roles, OpenID Connect, the way to DICOMweb, limits."""

from __future__ import annotations

import asyncio
import importlib
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from monailabel.config import settings
from starlette.testclient import TestClient

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_access import add_user

pytestmark = pytest.mark.usefixtures("app_folder")


def part(name: str) -> Any:
    return importlib.import_module(f"lib.{name}")


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/auth/", "anyone"),
        ("POST", "/auth/token", "anyone"),
        ("GET", "/crossmoda/login", "anyone"),
        ("POST", "/crossmoda/logout", "anyone"),
        ("POST", "/crossmoda/elsewhere", "reviewer"),
        ("GET", "/info/", "viewer"),
        ("GET", "/", "viewer"),
        ("POST", "/infer/x", "viewer"),
        ("POST", "/activelearning/first", "annotator"),
        ("POST", "/reload", "engineer"),
        ("HEAD", "/datastore/image", "viewer"),
        ("PUT", "/datastore/label", "annotator"),
        ("PUT", "/datastore/label/info", "reviewer"),
        ("PUT", "/datastore/updatelabelinfo", "reviewer"),
        ("DELETE", "/datastore/label", "reviewer"),
        ("GET", "/datastore/dataset", "engineer"),
        ("POST", "/train/", "engineer"),
        ("DELETE", "/batch/infer", "engineer"),
        ("GET", "/train/", "viewer"),
        ("GET", "/model/info/x", "engineer"),
        ("PUT", "/proxy/dicom/wado/studies", "engineer"),
    ],
)
def test_each_request_needs_a_role(method: str, path: str, role: str) -> None:
    assert part("access").role_needed(method, path) == role


def test_the_log_needs_passwords() -> None:
    assert part("access").role_needed("GET", "/logs/gpu").startswith("engineer, where")


class DicomWeb(BaseHTTPRequestHandler):
    """A DICOMweb server that answers what it was asked."""

    asked: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}, b""))
        if self.path.endswith("gone"):
            self.send_response(302)
            self.send_header("Location", "/system")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Set-Cookie", "secret=1")
        self.end_headers()
        self.wfile.write(b'[{"asked": true}]')

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The viewer's side of the proxy, in front of a DICOMweb server under ``/dicom-web``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), DicomWeb)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", f"http://127.0.0.1:{server.server_port}/dicom-web")
    monkeypatch.setattr(settings, "MONAI_LABEL_WADO_PREFIX", "wado")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "orthanc")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "pacs")
    DicomWeb.asked.clear()
    app = FastAPI()
    part("dicomweb_proxy").serve_dicomweb(app)
    yield TestClient(app, follow_redirects=False)
    server.shutdown()
    server.server_close()


def test_the_query_and_the_prefix_reach_dicomweb_and_our_password_does_not(viewer: TestClient) -> None:
    ours = {"Authorization": "Bearer ours", "Cookie": "session=ours", "Accept": "application/dicom+json"}
    answer = viewer.get("/proxy/dicom/qido/studies?PatientID=a%20b&limit=5", headers=ours)
    assert (answer.status_code, answer.json()) == (200, [{"asked": True}])
    assert answer.headers["content-type"] == "application/dicom+json"
    assert "set-cookie" not in answer.headers
    method, path, headers, _ = DicomWeb.asked[0]
    assert (method, path) == ("GET", "/dicom-web/studies?PatientID=a?b&limit=5")
    assert headers["authorization"].startswith("Basic ")  # of the DICOMweb server
    assert headers["accept"] == "application/dicom+json"
    assert "cookie" not in headers
    viewer.get("/proxy/dicom/wado/studies/1.2/series/3.4/metadata")
    viewer.get("/proxy/dicom/qido/studies/1.2/metadata")
    viewer.get("/proxy/dicom/studies/1.2")
    assert [path for _, path, *_ in DicomWeb.asked[1:]] == [
        "/dicom-web/wado/studies/1.2/series/3.4/metadata",
        "/dicom-web/wado/studies/1.2/metadata",
        "/dicom-web/studies/1.2",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "wado/..%2fsystem",
        "wado/studies/..%2f..%2fsystem",
        "..%2ftools/find",
        "wado/studies/%252e%252e/%252e%252e/system",
        "system",
        "wado/http:%2f%2felsewhere.example%2fstudies",
        "wado/studies%3fx=1",
        "wado/studies%0d%0aX: y",
        "wado/studies/a%2f..",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_but_dicomweb_is_reached(viewer: TestClient, path: str, method: str) -> None:
    assert viewer.request(method, f"/proxy/dicom/{path}").status_code == 404
    assert DicomWeb.asked == []


def test_redirects_are_handed_on_and_not_followed(viewer: TestClient) -> None:
    assert viewer.get("/proxy/dicom/studies/gone").status_code == 302
    assert len(DicomWeb.asked) == 1


def test_a_server_that_is_away_is_named(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "http://127.0.0.1:9/dicom-web")
    answer = viewer.get("/proxy/dicom/studies")
    assert (answer.status_code, "is it running" in answer.json()["detail"]) == (502, True)


@pytest.mark.parametrize("limit", ["0", "-1", "inf", "nan", "much"])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(CrossmodaError, match=f"max_upload_mb {limit}: give a number"):
        part("guard").upload_limit_mb({"max_upload_mb": limit})
    assert part("guard").upload_limit_mb({}) == 512
    assert part("guard").upload_limit_mb({"max_upload_mb": "2.5"}) == 2.5


def test_messages_name_files_and_no_folders() -> None:
    without_folders = part("answers").without_folders
    assert without_folders("/srv/review/.uploads/7/a.nii.gz: cut off") == "a.nii.gz: cut off"
    assert without_folders("label (File /srv/x/b.nii is no gzip)") == "label (File b.nii is no gzip)"
    assert without_folders("use 3 mm/s or and/or; see train/") == "use 3 mm/s or and/or; see train/"


def guarded(users: Path, client: str = "127.0.0.1", host: str = "127.0.0.1") -> TestClient:
    """A client at an address, in front of a guarded application that fails at ``/boom``."""
    app = FastAPI()

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("/srv/secret/case.nii.gz")

    @app.put("/datastore/label")
    async def label(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(part("guard").Guard, access=part("access").Access(users), max_upload_bytes=2_000_000)
    return TestClient(app, base_url=f"http://{host}", client=(client, 50000), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 404),
        ("::1", "localhost", 404),
        ("10.0.0.7", "127.0.0.1", 403),
        ("127.0.0.1", "10.0.0.7", 403),
        ("127.0.0.1", "rebound.example", 403),
    ],
)
def test_without_passwords_this_machine_alone_is_answered_whatever_is_listened_to(
    tmp_path: Path, client: str, host: str, status: int
) -> None:
    assert guarded(tmp_path / "users.json", client, host).get("/nowhere").status_code == status


def test_with_passwords_other_machines_are_answered(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    add_user(users, "anna", "annotator", "a long password")
    client = guarded(users, "10.0.0.7", "review.example")
    assert client.get("/nowhere").status_code == 401
    assert client.get("/nowhere", auth=("anna", "a long password")).status_code == 404
    users.write_text("damaged")
    answer = client.get("/nowhere", auth=("anna", "a long password"))
    assert (answer.status_code, "users.json" in answer.json()["detail"]) == (503, True)  # nobody, rather than everybody


def test_people_are_led_to_the_form_and_programs_are_told(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    add_user(users, "anna", "annotator", "a long password")
    client = guarded(users)
    person = client.get("/crossmoda/history", headers={"Accept": "text/html,*/*;q=0.8"}, follow_redirects=False)
    assert (person.status_code, person.headers["location"]) == (303, "/crossmoda/login?page=%2Fcrossmoda%2Fhistory")
    asked = {
        kind: client.get("/crossmoda/cases", headers=told).headers["www-authenticate"].split()[0]
        for kind, told in {"program": {}, "script of a page": {"Sec-Fetch-Mode": "cors"}}.items()
    }
    assert asked == {"program": "Basic", "script of a page": "Bearer"}  # a browser would open a dialogue for Basic
    wrong = client.get("/crossmoda/cases", auth=("anna", "a guess"))
    assert (wrong.status_code, wrong.json()["detail"]) == (401, "wrong name or password")
    for name, password in (("", ""), ("anna", ""), ("a" * 300, "x"), ("anna", "x" * 2000)):
        assert client.get("/crossmoda/cases", auth=(name, password)).json()["detail"] == "wrong name or password"


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_form_sets_a_cookie_for_this_site_s_requests_alone(tmp_path: Path, scheme: str, secure: bool) -> None:
    users, app = tmp_path / "users.json", FastAPI()
    add_user(users, "anna", "annotator", "a long password")
    access = part("access").Access(users)
    part("sign_in").serve_sign_in(app, access)
    app.add_middleware(part("guard").Guard, access=access, max_upload_bytes=1000)
    with TestClient(app, base_url=f"{scheme}://review.example", follow_redirects=False) as client:
        fields = {"username": "anna", "password": "a long password", "page": "/crossmoda/history"}
        answer = client.post("/crossmoda/login", data=fields)
        assert (answer.status_code, answer.headers["location"]) == (303, "/crossmoda/history")
        shape = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= shape
        assert ("secure" in shape) == secure
        assert client.get("/crossmoda/who").json() == {"name": "anna", "role": "annotator"}
        add_user(users, "anna", "annotator", "another password")
        assert client.get("/crossmoda/who").json() == {"name": "", "role": ""}  # signed out by the change
        again = client.post("/crossmoda/login", data={**fields, "username": '"><script>'})
        assert again.status_code == 401
        assert "<script>" not in again.text
        assert "set-cookie" not in again.headers


def test_a_failure_is_answered_in_one_line_without_a_trace_or_a_path(tmp_path: Path) -> None:
    answer = guarded(tmp_path / "users.json").get("/boom")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the server failed at this request; its log says why"}


def test_bodies_are_bounded_by_what_is_stated_and_by_what_comes(tmp_path: Path) -> None:
    client = guarded(tmp_path / "users.json")
    assert client.put("/datastore/label", content=bytes(2_000_000)).json() == 2_000_000
    for content in (bytes(2_000_001), iter([bytes(1_500_000), bytes(600_000)])):
        answer = client.put("/datastore/label", content=content)
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("larger than the 2 MB allowed")
    assert client.put("/elsewhere", content=bytes(1_100_000)).status_code == 413
    assert client.put("/datastore/label", content=b"a", headers={"Content-Length": "x"}).status_code == 400


def test_pages_of_other_origins_send_nothing(tmp_path: Path) -> None:
    client = guarded(tmp_path / "users.json")
    for origin, status in (("http://127.0.0.1", 200), ("http://127.0.0.1:81", 403), ("null", 403)):
        assert client.put("/datastore/label", content=b"a", headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(
    ("site", "mode", "destination", "status"),
    [
        ("same-origin", "cors", "empty", 404),
        ("none", "navigate", "document", 404),
        ("cross-site", "navigate", "document", 404),  # a link
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "no-cors", "script", 403),
        ("same-site", "cors", "empty", 403),  # another port of this machine
    ],
)
def test_pages_of_other_origins_may_link_to_the_server_and_load_nothing(
    tmp_path: Path, site: str, mode: str, destination: str, status: int
) -> None:
    told = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": destination}
    assert guarded(tmp_path / "users.json").get("/nowhere", headers=told).status_code == status


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "somebody at 10.0.0.7, not signed in"),
        ("?client_id=anna", "anna at 10.0.0.7, not signed in"),
        ("?user=berg&client_id=", "berg at 10.0.0.7, not signed in"),
        ("?user=%00%0a%ff", "\ufffd at 10.0.0.7, not signed in"),
        (f"?user={'a' * 300}", f"{'a' * 80} at 10.0.0.7, not signed in"),
    ],
)
def test_who_has_not_signed_in_is_told_by_address_and_claim(query: str, said: str) -> None:
    access = part("access")
    scope = {"type": "http", "query_string": query[1:].encode(), "client": ("10.0.0.7", 50000), "headers": []}
    assert access._said_of_client(scope) == said


def test_many_guesses_at_once_are_counted_too(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    add_user(users, "anna", "annotator", "a long password")

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(guarded(users).app, client=("127.0.0.1", 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            guesses = [client.get("/nowhere", auth=("anna", f"guess {number}")) for number in range(16)]
            return [answer.status_code for answer in await asyncio.gather(*guesses)]

    assert sorted(asyncio.run(statuses())) == [401] * 10 + [429] * 6


def test_what_a_killed_server_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(sys.modules, "monailabel.app", ModuleType("monailabel.app"))
    left, alive = tmp_path / ".uploads" / "4194303", tmp_path / ".uploads" / "1"
    old, new = tmp_path / ".incoming" / "old.nii.gz", tmp_path / ".incoming" / "new.nii.gz"
    for folder in (left, alive, tmp_path / ".incoming"):
        folder.mkdir(parents=True)
    for file in (left / "a.nii.gz", old, new):
        file.write_bytes(b"a scan")
    os.utime(old, (5, 5))
    part("uploads").keep_uploads_private(tmp_path)
    assert not left.exists()
    assert alive.exists()  # another server's
    assert not old.exists()
    assert new.exists()
    mine = Path(tempfile.gettempdir())
    assert mine.parent == tmp_path / ".uploads"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (mine, mine.parent)] == [0o700, 0o700]
