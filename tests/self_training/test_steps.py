from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.files import PARTIAL_MARK, read_json
from crossmoda.self_training.steps import MANIFEST, Step, StepFolder


def writes(name: str, text: str, log: list[str] | None = None):
    def work(place: Path) -> None:
        if log is not None:
            log.append(text)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)

    return work


def test_a_step_is_done_once_and_its_record_tells_what_made_it(tmp_path: Path) -> None:
    log: list[str] = []
    source = tmp_path / "in.txt"
    source.write_text("a")
    step = Step("copy", ("out.txt",), writes("out.txt", "b", log), {"size": 3}, {"source": source})

    assert StepFolder(tmp_path / "round_0").do(step)
    assert not StepFolder(tmp_path / "round_0").do(step)

    assert log == ["b"]
    record = read_json(tmp_path / "round_0" / MANIFEST)["steps"]["copy"]
    assert record["config"] == {"size": 3}
    # printf a | sha256sum
    assert record["inputs"]["source"]["sha256"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert record["inputs"]["source"]["path"] == "../in.txt"
    assert record["seconds"] >= 0


@pytest.mark.parametrize("change", ["config", "input", "output", "output gone"])
def test_a_step_is_done_again_when_something_that_it_depends_on_changes(tmp_path: Path, change: str) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a")
    folder = StepFolder(tmp_path / "round_0")
    folder.do(Step("copy", ("out.txt",), writes("out.txt", "b"), {"size": 3}, {"source": source}))
    if change == "input":
        source.write_text("changed")
    if change == "output":
        (folder.path / "out.txt").write_text("spoilt by hand")
    if change == "output gone":
        (folder.path / "out.txt").unlink()

    size = 4 if change == "config" else 3
    assert folder.do(Step("copy", ("out.txt",), writes("out.txt", "b"), {"size": size}, {"source": source}))
    assert (folder.path / "out.txt").read_text() == "b"


def test_a_touched_output_with_the_same_bytes_is_not_made_again(tmp_path: Path) -> None:
    folder = StepFolder(tmp_path)
    step = Step("copy", ("out.txt",), writes("out.txt", "b"))
    folder.do(step)
    os.utime(tmp_path / "out.txt", (1, 1))
    assert not folder.do(step)


def test_an_interrupted_step_finds_its_own_leavings_and_leaves_no_half_output(tmp_path: Path) -> None:
    def dies(place: Path) -> None:
        (place / "half.txt").write_text("checkpoint")
        (place / "out").mkdir()
        raise KeyboardInterrupt

    found: list[str] = []

    def goes_on(place: Path) -> None:
        found.append((place / "half.txt").read_text())
        (place / "out" / "x.txt").write_text("done")

    folder = StepFolder(tmp_path / "round_0")
    with pytest.raises(KeyboardInterrupt):
        folder.do(Step("train", ("out",), dies, {"seed": 1}))
    assert not (folder.path / "out").exists()
    folder.do(Step("train", ("out",), goes_on, {"seed": 1}))

    assert found == ["checkpoint"]
    assert (folder.path / "out" / "x.txt").read_text() == "done"
    assert not list(folder.path.glob(f"*{PARTIAL_MARK}*"))


def test_leavings_of_another_configuration_are_deleted(tmp_path: Path) -> None:
    def dies(place: Path) -> None:
        (place / "half.txt").write_text("of seed 1")
        raise KeyboardInterrupt

    seen: list[bool] = []

    def looks(place: Path) -> None:
        seen.append((place / "half.txt").exists())
        (place / "out").write_text("")

    folder = StepFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        folder.do(Step("train", ("out",), dies, {"seed": 1}))
    folder.do(Step("train", ("out",), looks, {"seed": 2}))
    assert seen == [False]
    assert not list(tmp_path.glob(f".*{PARTIAL_MARK}*"))


def test_a_folder_that_is_made_again_holds_nothing_of_the_former_one(tmp_path: Path) -> None:
    folder = StepFolder(tmp_path)
    folder.do(Step("predict", ("out",), writes("out/a.txt", "a"), {"seed": 1}))
    folder.do(Step("predict", ("out",), writes("out/b.txt", "b"), {"seed": 2}))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    step = Step("copy", ("out",), writes("out", ""), inputs={"weights": tmp_path / "model.pt"})
    with pytest.raises(CrossmodaError, match=r"model\.pt: missing, but step 'copy' needs it as weights"):
        StepFolder(tmp_path).do(step)


def test_a_step_that_makes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="ended without making out"):
        StepFolder(tmp_path).do(Step("lazy", ("out",), lambda place: None))
