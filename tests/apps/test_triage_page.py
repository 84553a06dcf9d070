"""The triage page of a live server, in headless Chromium with real keys, wheel and clicks.

The tests of this module are one session of a reader: they run in order, each going on from where the one before ended.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from crossmoda.self_training.review import collect

from .browser import Browser, chromium
from .conftest import AFFINES, STRUCTURES, Served, blocks, save_nifti

WALL = "#wall:not([hidden]) .card"
NASTY = "<img src=x onerror=alert(1)> & 'motion'"


@pytest.fixture(scope="module")
def page(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page, open in a browser."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.open(f"{served.url}/crossmoda/triage")
        yield browser


def label_info(served: Served, image: str, tag: str = "original") -> dict[str, Any]:
    store = json.loads((served.studies / "datastore_v2.json").read_text())
    info: dict[str, Any] = store["objects"][image]["labels"][tag]["info"]
    return info


def meta_of(served: Served, image: str) -> dict[str, Any]:
    meta: dict[str, Any] = label_info(served, image)["segmentationMeta"]
    return meta


def told(page: Browser, words: str) -> None:
    """Wait until the page's line of messages says something."""
    page.wait_for(f"document.querySelector('#message').textContent.includes({json.dumps(words)})")


def shown_slice(page: Browser, plane: str) -> int:
    """Return the number of the slice that a plane shows, once its picture has come."""
    figure = f"document.querySelector('figure[data-plane={plane}]')"
    page.wait_for(f"{figure}.querySelector('img').naturalWidth && !{figure}.loading")
    words = page.text(f"figure[data-plane={plane}] figcaption").split()
    address = page.evaluate(f"{figure}.querySelector('img').getAttribute('src')")
    assert f"/{plane}/{int(words[1]) - 1}?" in address
    return int(words[1])


def test_the_cases_are_told_with_the_most_uncertain_first(served: Served) -> None:
    answer = requests.get(f"{served.url}/crossmoda/cases", timeout=60)
    rows = answer.json()["cases"]
    assert [row["image"] for row in rows] == ["case.2_hrT2", "case.3_hrT2", "case.1_hrT2"]
    assert [(row["status"], row["tag"], row["uncertainty"]) for row in rows] == [
        ("open", "original", 0.8),
        ("open", "original", 0.5),
        ("open", "original", 0.3),
    ]
    assert requests.get(f"{served.url}/crossmoda/cases/case.2_hrT2/planes", timeout=60).json()["axial"]["slices"] == 10


def test_the_page_may_load_from_its_own_server_only(served: Served) -> None:
    answer = requests.get(f"{served.url}/crossmoda/triage", timeout=60)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    for name in ("triage.html", "triage.css", "triage.js"):
        text = requests.get(f"{served.url}/crossmoda/static/{name}", timeout=60).text
        assert "//" not in text.replace("// ", "")  # no address of another server
        assert "innerHTML" not in text


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("cases/nobody", 404, "not in the store"),
        ("cases/..%5Cx", 422, "use letters"),
        ("cases/.lock", 422, "use letters"),
        ("cases/case.2_hrT2/planes?tag=../original", 422, "not a tag"),
        ("pictures/case.2_hrT2?tag=final", 404, "not in the store"),
        ("pictures/nobody?tag=original", 404, "not in the store"),
        ("pictures/case.2_hrT2/axial/10?tag=original", 422, "slices 0 to 9"),
        ("pictures/case.2_hrT2/axial/-1?tag=original", 422, "slices 0 to 9"),
        ("pictures/case.2_hrT2/axial/1e9?tag=original", 422, "integer"),
        ("pictures/case.2_hrT2/oblique/3?tag=original", 422, "axial"),
        ("pictures/case.2_hrT2/axial/3?width=0", 422, "greater than"),
        ("pictures/case.2_hrT2/axial/3?level=999999999999", 422, "less than"),
        ("static/../triage.py", 404, "Not Found"),
    ],
)
def test_what_is_not_there_is_refused_with_a_reason(served: Served, path: str, status: int, reason: str) -> None:
    prepared = requests.Request("GET", f"{served.url}/crossmoda/{path}").prepare()
    prepared.url = f"{served.url}/crossmoda/{path}"  # as it stands, dots and all
    with requests.Session() as session:
        answer = session.send(prepared, timeout=60)
    assert answer.status_code == status
    assert reason in answer.text


def test_the_wall_shows_every_case_with_its_picture_and_figures(page: Browser) -> None:
    page.wait_for(f"[...document.querySelectorAll('{WALL} img')].filter(img => img.naturalWidth === 480).length === 3")
    assert page.evaluate(f"[...document.querySelectorAll('{WALL} strong')].map(one => one.textContent)") == [
        "case.2",
        "case.3",
        "case.1",
    ]
    page.wait_for("document.querySelector('.card').innerText.includes('mL')")
    # blocks of 6 x 5 x 4 and 3 x 3 x 3 voxels of 1.1 x 0.9 x 2 mm: 0.2376 and 0.0535 mL
    for words in ("uncertainty 0.800", "vs 0.24 mL, cochlea 0.053 mL", "unknown", "round 0", "open"):
        assert words in page.text(".card")
    assert "Check: vs of 4530 mm3 dropped far from both cochleae, 0 allowed" in page.text(".card")
    assert "Check:" not in page.text(".card:nth-child(2)")
    assert page.text("#left") == "3 of 3 left"
    assert all(words in page.text("#help") for words in ("approve", "flag", "comment", "undo", "next, previous"))


def test_a_approves_the_chosen_case_as_slicer_s_reviewer_does(
    served: Served, page: Browser, reviewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.press("ArrowRight", "a")
    page.wait_for("document.querySelector('#ask').open")
    page.write("Dr. Berg")
    page.press("Enter")
    told(page, "case.3: approved by Dr. Berg")
    assert page.text("#left") == "2 of 3 left"
    assert collect(served.studies, STRUCTURES)["case.3"].who == "Dr. Berg"
    assert label_info(served, "case.3_hrT2")["round"] == 0  # what was known of the label is still known
    for place in Path(sysconfig.get_paths()["purelib"]).glob("monailabel-*.data/data/monailabel/plugins/slicer"):
        monkeypatch.syspath_prepend(str(place / "MONAILabelReviewer"))
    parser = pytest.importorskip("MONAILabelReviewerLib.JsonParser").JsonParser(reviewer.requestDataStoreInfo())
    parser.init()
    seen = parser.getMapIdToImageData()["case.3_hrT2"].getSegmentationMetaByVersionTag("original")
    assert (seen.getStatus(), seen.getApprovedBy(), seen.getLevel(), seen.getComment()) == (
        "approved",
        "Dr. Berg",
        "",
        "",
    )
    assert isinstance(seen.getEditTime(), int)


def test_level_and_comment_are_added_and_shown_as_text(served: Served, page: Browser) -> None:
    page.press("3")
    told(page, "approved, hard by Dr. Berg")
    page.press("c")
    page.wait_for("document.querySelector('#ask').open")
    page.write(NASTY)
    page.press("Enter")
    page.wait_for(f"document.querySelector('.card.selected').innerText.includes({json.dumps(NASTY)})")
    meta = meta_of(served, "case.3_hrT2")
    assert {key: meta[key] for key in ("status", "level", "approvedBy", "comment")} == {
        "status": "approved",
        "level": "hard",
        "approvedBy": "Dr. Berg",
        "comment": NASTY,
    }


def test_u_takes_back_step_by_step(served: Served, page: Browser) -> None:
    page.press("f")
    told(page, "case.3: flagged")
    page.press("u")
    told(page, "Undone. case.3: approved")
    assert meta_of(served, "case.3_hrT2")["comment"] == NASTY
    page.press("u", "u")
    page.wait_for("!document.querySelector('.card.selected').innerText.includes('hard')")
    assert meta_of(served, "case.3_hrT2")["status"] == "approved"
    page.press("u")
    told(page, "Undone. case.3: open")
    assert collect(served.studies, STRUCTURES) == {}
    page.press("u")
    told(page, "Nothing to undo.")


def test_the_name_is_remembered(served: Served, page: Browser) -> None:
    page.open(f"{served.url}/crossmoda/triage")
    page.wait_for("document.querySelector('.card.selected')")
    assert page.text("#reader") == "Reader: Dr. Berg"


def test_a_verdict_by_somebody_else_is_shown_and_not_overwritten(served: Served, page: Browser, reviewer: Any) -> None:
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")  # no refreshing of itself meanwhile
    page.press("n", "n")
    page.wait_for("document.querySelector('.card.selected strong').textContent === 'case.1'")
    meta = {"status": "flagged", "level": "", "approvedBy": "Dr. Wu", "comment": "artefact", "editTime": 1767225600}
    assert reviewer.updateLabelInfo("case.1_hrT2", "original", {"segmentationMeta": meta}) == 200
    page.press("a")
    told(page, "Not written. Meanwhile case.1 is flagged by Dr. Wu on 2026-01-01 00:00 UTC.")
    assert meta_of(served, "case.1_hrT2") == meta
    assert "artefact" in page.text(".card.selected")
    page.press("a")
    told(page, "case.1: approved by Dr. Berg")
    assert meta_of(served, "case.1_hrT2")["status"] == "approved"
    reviewer.updateLabelInfo("case.1_hrT2", "original", {"segmentationMeta": meta})
    page.press("u")
    told(page, "It was not undone.")
    assert meta_of(served, "case.1_hrT2") == meta


def test_status_and_site_choose_what_the_wall_shows(page: Browser) -> None:
    def choose(field: str, value: str) -> list[str]:
        page.evaluate(
            f"(() => {{const e = document.querySelector('#{field}'); e.value = '{value}';"
            "e.dispatchEvent(new Event('change'));})()"
        )
        shown: list[str] = page.evaluate(f"[...document.querySelectorAll('{WALL} strong')].map(one => one.textContent)")
        return shown

    assert choose("by-status", "flagged") == ["case.1"]
    assert choose("by-status", "corrected") == []
    assert choose("by-status", "open") == ["case.2", "case.3"]
    assert choose("by-site", "unknown") == ["case.2", "case.3"]
    assert page.text("#left") == "2 of 3 left"
    assert choose("by-status", "") == ["case.2", "case.3", "case.1"]


def test_a_case_is_leafed_through_by_keys_wheel_and_clicks(page: Browser) -> None:
    page.press("p", "p", "Enter")
    assert page.text("#title") == "case.2"
    # stored from left to right, anterior to posterior: the tumour's largest slice is number 2, the first of equals
    assert shown_slice(page, "axial") == 3
    page.press("ArrowUp", "ArrowUp", "ArrowDown")
    assert shown_slice(page, "axial") == 4
    page.press("ArrowRight", "ArrowUp")
    coronal = shown_slice(page, "coronal")
    page.wheel("figure[data-plane=coronal]", down=100)
    page.wait_for(f"document.querySelector('figure[data-plane=coronal]').innerText.includes('{coronal - 1} /')")
    page.wheel("figure[data-plane=sagittal]", down=-100)
    page.wait_for("document.querySelector('figure.active').dataset.plane === 'sagittal'")
    page.click("figure[data-plane=axial]", right=2, down=2)  # the middle of the picture
    assert (shown_slice(page, "sagittal"), shown_slice(page, "coronal")) == (13, 11)
    assert page.evaluate("document.querySelector('figure.active').dataset.plane") == "axial"
    page.press("ArrowLeft")  # round to the sagittal plane
    for _ in range(15):
        page.press("ArrowUp")
    assert shown_slice(page, "sagittal") == 26  # the last


def test_contours_and_window_can_be_changed(page: Browser) -> None:
    source = "document.querySelector('figure[data-plane=axial] img').src"
    page.press("o")
    page.wait_for(f"{source}.includes('contours=false')")
    page.press("o", "w")
    page.wait_for(f"{source}.includes('contours=true&level=25&width=50')")
    assert page.text("#window") == "soft tissue (25 %, 50 %)"
    page.press("w", "w")
    assert page.text("#window") == "normal (50 %, 100 %)"


def test_cases_are_judged_one_after_the_other(served: Served, page: Browser) -> None:
    page.press("f", "n")
    page.wait_for("document.querySelector('#title').textContent === 'case.3'")
    told(page, "case.2: flagged by Dr. Berg")
    page.click("[data-command=approve]")
    page.wait_for("document.querySelector('#verdict').innerText.startsWith('approved by Dr. Berg')")
    page.press("n", "n")
    told(page, "This is the last case.")
    page.press("Escape")
    page.wait_for("!document.querySelector('#wall').hidden")
    assert page.text("#left") == "0 of 3 left"
    reviews = collect(served.studies, STRUCTURES)
    assert {case: label.status for case, label in reviews.items()} == {
        "case.1": "flagged",
        "case.2": "flagged",
        "case.3": "approved",
    }


def test_the_page_had_nothing_to_complain_about(page: Browser) -> None:
    expected = "409 (Conflict)"  # verdicts on what had changed meanwhile, which Chromium notes as failed requests
    assert [problem for problem in page.problems if expected not in problem] == []


def test_a_new_label_gets_a_new_picture(served: Served, page: Browser, slicer: Any, tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "label.nii.gz", blocks(vs=1, cochlea=0), AFFINES["case.2"])
    slicer.save_label("case.2_hrT2", str(file), params={"label_info": [{"name": "vs", "idx": 1}]})
    page.open(f"{served.url}/crossmoda/triage")
    page.wait_for(f"document.querySelector('{WALL} img').src.includes('tag=final')")
    page.wait_for("document.querySelector('.card').innerText.includes('cochlea 0.000 mL')")
    assert "corrected" in page.text(".card")
    assert "user-anna" in page.text(".card")


def test_a_link_leads_to_the_history_by_the_keyboard_too(page: Browser) -> None:
    page.evaluate("document.querySelector('header a').focus()")
    page.press("Enter")
    page.wait_for("location.pathname === '/crossmoda/history' && document.body.innerText.includes('Dr. Berg')")
