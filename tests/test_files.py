from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.files import (
    PARTIAL_MARK,
    atomic_directory,
    atomic_path,
    hash_of,
    read_json,
    sha256_of,
    sha256_of_tree,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def stop_half_way(partial: Path) -> None:
    partial.write_text("half")
    raise RuntimeError("stop")


def test_sha256_is_that_of_the_bytes_and_follows_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    for content in (b"abc", b"abcd"):
        file.write_bytes(content)
        assert sha256_of(file) == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_value_does_not_depend_on_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of([1, 2]) != hash_of([2, 1])


def test_the_hash_of_a_tree_follows_names_and_contents_but_not_unfinished_files(tmp_path: Path) -> None:
    (tmp_path / "t" / "deep").mkdir(parents=True)
    (tmp_path / "t" / "deep" / "a").write_text("1")
    before = sha256_of_tree(tmp_path / "t")
    (tmp_path / "t" / f".x{PARTIAL_MARK}a").write_text("half")
    assert sha256_of_tree(tmp_path / "t") == before
    (tmp_path / "t" / "deep" / "a").rename(tmp_path / "t" / "deep" / "b")
    assert sha256_of_tree(tmp_path / "t") != before
    assert sha256_of_tree(tmp_path / "t" / "deep" / "b") == sha256_of(tmp_path / "t" / "deep" / "b")


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.nii.gz"
    with atomic_path(path) as partial:
        assert partial.name.endswith(".nii.gz")
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as partial:
        stop_half_way(partial)
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.nii.gz"]


def test_a_folder_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in ("first", "second"):
        with atomic_directory(folder) as partial:
            (partial / name).write_text(name)
        assert names(folder) == [name]
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(folder) as partial:
        stop_half_way(partial / "third")
    assert names(folder) == ["second"]
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CrossmodaError, match=r"file.*: cannot be made .*choose a folder") as caught:
        write_text(tmp_path / "file" / "a.txt", "x")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_file_and_no_fragment(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def write_half() -> None:
        with atomic_path(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(CrossmodaError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_takes_numbers_of_numpy_and_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": np.float32(0.5), "b": np.arange(3), "c": Path("x") / "y"})
    assert read_json(tmp_path / "a.json") == {"a": 0.5, "b": [0, 1, 2], "c": str(Path("x") / "y")}
    with pytest.raises(TypeError, match="set cannot be written"):
        write_json(tmp_path / "b.json", {1})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_json_that_is_cut_or_missing_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CrossmodaError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(CrossmodaError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_written_json_is_plain_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": 2})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"z": 1, "a": 2}
    assert text.endswith("}\n")
