"""People of an identity server at work on a live review server: 3D Slicer's clients, pages in a browser, sessions.

The tests of this module share one server, whose people sign in with OpenID Connect.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from filelock import FileLock

from crossmoda.data.volumes import read_volume
from crossmoda.self_training.review import collect
from crossmoda.self_training.review_history import history

from .browser import Browser, chromium
from .conftest import AFFINES, STRUCTURES, Served, blocks, save_nifti, serve, slicer_client, slicer_module, write_run
from .identity_server import IdentityServer, identity_server
from .test_oidc import PEOPLE

MODEL = "vs_cochlea_hrt2_segmentation"
META = "/datastore/updatelabelinfo?label=case.1_hrT2&tag=original"
FORM = "document.querySelector('input[name=password]')"


@pytest.fixture(scope="module")
def identity() -> Iterator[IdentityServer]:
    with identity_server(dict(PEOPLE)) as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, repository: Path, identity: IdentityServer) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    run = write_run(folder / "run", repository)
    oidc = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": identity.url}
    with serve(run, folder, repository, {"max_sessions_mb": "0.2"}, environment=oidc) as server:
        yield server


def ask(served: Served, method: str, path: str, token: str = "", **arguments: Any) -> requests.Response:
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **arguments.pop("headers", {})}
    return requests.request(method, served.url + path, headers=headers, timeout=60, allow_redirects=False, **arguments)


def signed_in(served: Served, folder: Path, name: str) -> Any:
    """Return Slicer's client, signed in as its module does it."""
    client = slicer_client(served, folder)
    assert client.auth_enabled()
    client.update_auth(client.auth_token(name, PEOPLE[name][0]))
    assert client.auth_valid_token()
    return client


def test_without_a_token_scans_and_labels_are_nobody_s(served: Served) -> None:
    paths = (
        "/info/",
        "/",
        "/openapi.json",
        "/datastore/?output=all",
        "/crossmoda/cases",
        "/datastore/image?image=case.1_hrT2",
    )
    assert [ask(served, "GET", path).status_code for path in paths] == [401] * len(paths)
    assert ask(served, "POST", "/reload").status_code == 401


def test_slicer_signs_in_with_a_name_and_a_password_of_the_identity_server(served: Served, tmp_path: Path) -> None:
    anna = signed_in(served, tmp_path, "anna")
    sample = anna.next_sample("uncertainty", {})
    file = save_nifti(tmp_path / "label.nii.gz", blocks(1, 2), AFFINES[sample["id"].removesuffix("_hrT2")])
    anna.save_label(sample["id"], str(file), params={"label_info": [{"name": name, "idx": 1} for name in STRUCTURES]})
    assert anna.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]["user"] == "anna"
    told = [(event["event"], event["who"]) for event in history(served.studies) if event.get("who")]
    assert told == [("handed out", "anna"), ("saved", "anna")]
    assert ask(served, "GET", f"/datastore/image?image={sample['id']}").status_code == 200  # Slicer sends no token here
    with pytest.raises(Exception) as refused:  # noqa: PT011 - the client's own kind
        slicer_client(served, tmp_path).auth_token("anna", "a guess")
    assert "Status: 401" in refused.value.msg  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/info/", (200, 200, 200, 200)),
        ("GET", "/crossmoda/history", (200, 200, 200, 200)),
        ("POST", "/activelearning/first", (403, 200, 200, 200)),
        ("PUT", "/datastore/label?image=nobody", (403, 422, 422, 422)),
        ("PUT", META, (403, 403, 200, 200)),
        ("DELETE", "/datastore/label?id=nobody&tag=final", (403, 403, 404, 404)),
        ("POST", "/train/none", (403, 403, 403, 404)),
        ("GET", "/logs/", (403, 403, 403, 200)),
    ],
)
def test_each_role_of_monai_label_may_do_its_own(
    served: Served, identity: IdentityServer, method: str, path: str, statuses: tuple[int, ...]
) -> None:
    tokens = [identity.token(name) for name in ("vera", "anna", "berg", "eve")]
    assert tuple(ask(served, method, path, token).status_code for token in tokens) == statuses


def test_tokens_for_others_and_people_without_a_role_are_refused(served: Served, identity: IdentityServer) -> None:
    late = identity.token("eve", exp=time.time() - 60)
    other = identity.token("eve", azp="other-app")
    answers = [ask(served, "GET", "/info/", token) for token in (late, other, identity.token("otto"), "nonsense")]
    assert [answer.status_code for answer in answers] == [401, 401, 403, 401]
    assert [answer.headers.get("www-authenticate", "")[:5] for answer in answers] == ["Basic", "Basic", "", "Basic"]


def test_a_viewer_may_predict_and_not_save_the_prediction(served: Served, tmp_path: Path) -> None:
    vera = signed_in(served, tmp_path, "vera")
    assert vera.infer(MODEL, "case.1_hrT2", {})[1]["label_names"] == {"vs": 1, "cochlea": 2}
    with pytest.raises(Exception, match=r"Status: 403.*vera is viewer; a label is saved by an annotator"):
        vera.infer(MODEL, "case.1_hrT2", {"save_label": True})


def test_the_reviewer_module_signs_in_by_netrc(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: IdentityServer
) -> None:
    (tmp_path / "netrc").write_text(f'machine 127.0.0.1 login berg password "{PEOPLE["berg"][0]}"\n')
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    reviewer = slicer_module("MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py").MonaiServerREST(served.url)
    asked = len(identity.asked)
    assert reviewer.checkServerConnection()
    meta = {"status": "approved", "approvedBy": "", "level": "easy", "comment": "", "editTime": 1767225600}
    assert reviewer.updateLabelInfo("case.3_hrT2", "original", {"segmentationMeta": {**meta, "approvedBy": "x"}}) == 200
    assert collect(served.studies, STRUCTURES)["case.3"].who == "berg"
    assert len(identity.asked) == asked + 1  # one password, asked once


def test_of_two_verdicts_on_what_both_saw_one_counts(served: Served, identity: IdentityServer) -> None:
    token = identity.token("berg")
    seen = ask(served, "GET", "/crossmoda/cases/case.1_hrT2", token).json()["state"]

    def judge(status: str) -> tuple[int, str]:
        said = json.dumps({"segmentationMeta": {"status": status, "comment": status}, "seen": seen})
        answer = ask(served, "PUT", META, token, data={"params": said})
        return answer.status_code, answer.json().get("detail") or status

    with ThreadPoolExecutor(2) as pool:
        with FileLock(served.studies / ".lock"):  # both are on their way before either can write
            answers = [pool.submit(judge, status) for status in ("approved", "flagged")]
            time.sleep(1.0)
        told = sorted(answer.result() for answer in answers)
    assert [status for status, _ in told] == [200, 409]
    assert "somebody has saved or judged it meanwhile" in told[1][1]
    info = ask(served, "GET", "/datastore/label/info?label=case.1_hrT2&tag=original", token).json()
    assert info["segmentationMeta"]["comment"] == told[0][1]
    assert "seen" not in info


@pytest.fixture(scope="module")
def browser(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def enter(page: Browser, name: str, password: str) -> None:
    page.evaluate("document.querySelector('input[name=username]').select()")
    page.write(name)
    page.evaluate(f"{FORM}.focus()")
    page.write(password)
    page.press("Enter")


def test_a_page_leads_to_the_form_and_back(served: Served, browser: Browser) -> None:
    browser.open(f"{served.url}/crossmoda/history")
    browser.wait_for(f"location.pathname === '/crossmoda/login' && {FORM}")
    enter(browser, "berg", "a guess")
    browser.wait_for("document.querySelector('.problem').innerText === 'wrong name or password'")
    assert browser.evaluate("document.querySelector('input[name=username]').value") == "berg"
    enter(browser, "berg", PEOPLE["berg"][0])
    browser.wait_for("location.pathname === '/crossmoda/history' && document.body.innerText.includes('handed out')")


def test_who_has_signed_in_gives_no_name_on_the_triage_page(served: Served, browser: Browser) -> None:
    browser.open(f"{served.url}/crossmoda/triage")
    browser.wait_for("document.querySelector('#reader').innerText === 'Sign out berg'")
    browser.wait_for("document.querySelector('.card.selected')")
    browser.press("ArrowRight", "f")
    browser.wait_for("document.querySelector('#message').textContent.startsWith('case.3: flagged')")
    assert not browser.evaluate("document.querySelector('#ask').open")


def test_the_cookie_is_kept_from_scripts_and_other_sites(served: Served, browser: Browser) -> None:
    cookies = browser.send("Network.getCookies", urls=[served.url])["cookies"]
    assert [(cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) for cookie in cookies] == [
        (True, "Strict", False)
    ]
    assert browser.evaluate("document.cookie") == ""
    sent = {"Cookie": f"{cookies[0]['name']}={cookies[0]['value']}"}
    verdict = {"data": {"params": json.dumps({"segmentationMeta": {"status": "approved"}})}}
    statuses = [
        ask(served, "PUT", META, headers={**sent, **origin}, **verdict).status_code
        for origin in ({"Origin": served.url}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}, {})
    ]
    assert statuses == [200, 403, 403, 403]


def test_pages_ask_no_other_server_for_anything(served: Served, browser: Browser) -> None:
    for path in ("/", "/docs", "/crossmoda/triage", "/crossmoda/history"):
        browser.open(served.url + path)
    browser.open(f"{served.url}/")
    assert "/infer/{model}" in browser.text("body")
    assert "Signed in as berg (reviewer)" in browser.text("body")
    assert {address for address in browser.asked if not address.startswith((served.url, "data:"))} == set()
    assert len(browser.asked) > 10
    refusals = [problem for problem in browser.problems if "401" not in problem]  # of the wrong password above
    assert refusals == []


def test_signing_out_ends_it(served: Served, browser: Browser) -> None:
    cookie = browser.send("Network.getCookies", urls=[served.url])["cookies"][0]
    sent = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert ask(served, "GET", "/info/", headers=sent).status_code == 200
    browser.open(f"{served.url}/crossmoda/triage")
    browser.wait_for("document.querySelector('#reader').innerText === 'Sign out berg'")
    browser.click("#reader")
    browser.wait_for(f"location.pathname === '/crossmoda/login' && {FORM}")
    assert browser.send("Network.getCookies", urls=[served.url])["cookies"] == []
    assert ask(served, "GET", "/info/", headers=sent).status_code == 401


@pytest.mark.parametrize(
    "page", ["//elsewhere.example", "https://elsewhere.example/", "/\\elsewhere", "/a?b", "/%0d", f"/{'a' * 200}!"]
)
def test_the_form_leads_to_pages_of_its_own_only(served: Served, page: str) -> None:
    fields = {"username": "berg", "password": PEOPLE["berg"][0], "page": page}
    answer = ask(served, "POST", "/crossmoda/login", data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/crossmoda/triage")
    elsewhere = ask(served, "POST", "/crossmoda/login", data=fields, headers={"Origin": "http://elsewhere.example"})
    assert (elsewhere.status_code, "set-cookie" in elsewhere.headers) == (403, False)


def test_a_session_is_private_and_bounded_and_ends(served: Served, tmp_path: Path, identity: IdentityServer) -> None:
    anna = signed_in(served, tmp_path, "anna")
    scan = served.run / "scans" / "case.2_hrT2.nii.gz"
    answer = anna.create_session(str(scan))
    session, folder = answer["session_id"], served.run / ".sessions"
    assert (folder / session / "case.2_hrT2.nii.gz").read_bytes() == scan.read_bytes()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert str(served.run) not in json.dumps([answer, anna.get_session(session)])
    params = {"result_extension": ".nrrd", "result_dtype": "uint8"}
    by_session = read_volume(anna.infer(MODEL, "", params, session_id=session)[0]).array
    np.testing.assert_array_equal(by_session, read_volume(anna.infer(MODEL, "case.2_hrT2", params)[0]).array)
    stored = [session]
    with pytest.raises(Exception) as full:  # noqa: PT011, PT012 - the client's own kind
        for _ in range(100):
            # The module makes a client for each request; one that has sent a form sends its header again.
            stored.append(signed_in(served, tmp_path, "anna").create_session(str(scan))["session_id"])
    assert "Status: 413" in full.value.msg  # type: ignore[attr-defined]
    assert "--conf max_sessions_mb" in full.value.msg  # type: ignore[attr-defined]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 200_000
    token = identity.token("anna")
    anna = signed_in(served, tmp_path, "anna")
    assert anna.remove_session(stored.pop())
    short = ask(served, "PUT", "/session/?expiry=1", token, files={"files": ("a.nii.gz", scan.read_bytes())}).json()
    time.sleep(2.1)
    for path in (
        f"/infer/{MODEL}?session_id={short['session_id']}",
        f"/infer/{MODEL}?session_id={'0' * 8}-0000-0000-0000-{'0' * 12}",
    ):
        late = ask(served, "POST", path, token)
        assert (late.status_code, "unknown or ended" in late.json()["detail"]) == (404, True)
    assert anna.create_session(str(scan))  # in the place of the one that has ended
    assert not (folder / short["session_id"]).exists()
    assert anna.remove_session(session)
    assert not (folder / session).exists()
    assert not list((served.studies / ".uploads").rglob("*.nii.gz"))  # nothing of what was refused is left


def test_an_identity_server_that_is_away_is_named(served: Served, identity: IdentityServer) -> None:
    answered = threading.Event()
    answer, identity.answer = identity.answer, lambda path, form: answered.set() or (500, {})  # type: ignore[method-assign]
    try:
        refused = ask(served, "POST", "/auth/token", data={"username": "berg", "password": "another"})
    finally:
        identity.answer = answer  # type: ignore[method-assign]
    assert answered.is_set()
    assert (refused.status_code, "the identity server" in refused.json()["detail"]) == (503, True)
