"""The guard's parts by themselves: rules of roles, OpenID Connect, the way to DICOMweb, limits."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from monailabel.config import settings
from monailabel.endpoints.user import auth
from starlette.testclient import TestClient

from crossmoda.errors import CrossmodaError


@pytest.fixture(scope="module", autouse=True)
def app_folder(repository: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "apps" / "crossmoda_label"))
        yield


def part(name: str) -> Any:
    return importlib.import_module(f"lib.{name}")


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/auth/", "anyone"),
        ("POST", "/auth/token", "anyone"),
        ("GET", "/info/", "annotator"),
        ("GET", "/", "annotator"),
        ("HEAD", "/datastore/image", "annotator"),
        ("PUT", "/datastore/label", "annotator"),
        ("PUT", "/datastore/label/info", "reviewer"),
        ("PUT", "/datastore/updatelabelinfo", "reviewer"),
        ("DELETE", "/datastore/label", "reviewer"),
        ("GET", "/datastore/dataset", "engineer"),
        ("POST", "/train/", "engineer"),
        ("DELETE", "/batch/infer", "engineer"),
        ("GET", "/train/", "annotator"),
        ("GET", "/model/info/x", "engineer"),
        ("PUT", "/proxy/dicom/wado/studies", "engineer"),
    ],
)
def test_each_request_needs_a_role(method: str, path: str, role: str) -> None:
    assert part("access").role_needed(method, path) == role


def test_the_log_needs_passwords() -> None:
    assert part("access").role_needed("GET", "/logs/gpu").startswith("engineer, where")


def test_a_token_of_openid_connect_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = keys.public_key().public_bytes(*form).decode()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth, "get_public_key", lambda realm: public)
    monkeypatch.setattr(auth, "jwt", jwt)  # brought back at the end
    claims = {"preferred_username": "berg", "realm_access": {"roles": ["monailabel-reviewer"]}}
    token = jwt.encode(claims, keys, algorithm="RS256")
    app = FastAPI()
    part("access").tell_monai_who_asks(app)

    @app.get("/asking")
    def asking(user: auth.User = Depends(auth.get_current_user)) -> str:  # noqa: B008
        return f"{user.username}, {part('access').requesting_user().role}"

    monkeypatch.setattr(auth, "oauth2_scheme", OAuth2PasswordBearer("token"))  # as where it was on at the start
    with TestClient(app) as client:
        assert client.get("/asking", headers={"Authorization": f"Bearer {token}"}).json() == "berg, reviewer"
        assert client.get("/asking").status_code == 401
    user = part("access")._oidc_user(token)
    assert (user.name, user.role) == ("berg", "reviewer")
    unsigned = jwt.encode(claims, "", algorithm="none")
    by_others = jwt.encode(claims, rsa.generate_private_key(public_exponent=65537, key_size=2048), algorithm="RS256")
    for forged in (unsigned, by_others, "nonsense"):
        with pytest.raises(HTTPException) as refused:
            part("access")._oidc_user(forged)
        assert refused.value.status_code == 401


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
    assert (method, path) == ("GET", "/dicom-web/studies?PatientID=a%20b&limit=5")
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
