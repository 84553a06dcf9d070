"""README.md leads from the challenge's archives to a submission in three commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support import TINY_SIZES

from crossmoda.data.layouts import Dataset, read_dataset
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.files import read_json

pytestmark = pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")

TINY: dict[str, Any] = {  # the recipe's views, and a small network of our own in place of nnU-Net's ensemble
    **TINY_SIZES,
    "rounds": 0,
    "anchors": False,
    "segmenter_kind": "dynunet",
    "segmenter_overlays": [],
    "segmenter_inference_overlays": ["uncertainty.yaml"],
    "segmenter_settings": {},
    "segmenter_inference_settings": {},
}
TRAINING = {"2021": "crossmoda_training", "2022": "crossmoda2022_training", "2023": "crossmoda23_training"}


def commands_of(section: str, repository: Path) -> list[str]:
    """Return the commands of a section's first block, without comments."""
    text = (repository / "README.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [line.split("  # ")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def pack(archive: Path, folder: Path, prefix: str) -> None:
    """Write the files below a folder into a zip, each under the prefix."""
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            packed.write(path, f"{prefix}{path.relative_to(folder)}")


def archives_of(dataset: Path, downloads: Path, top_folder: bool) -> None:
    """Pack a dataset as the challenge does: the training scans, and the validation scans."""
    for name in (path.name for path in sorted(dataset.iterdir()) if path.name.startswith("crossmoda")):
        pack(downloads / f"{name}.zip", dataset / name, f"{name}/" if top_folder else "")


def run(command: str, place: Path, **settings: Any) -> None:
    further = " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in settings.items())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(place), "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(f"{command} {further}", shell=True, cwd=place, env=environment, check=True, timeout=300)


def cases(dataset: Dataset) -> list[list[str]]:
    return [[case.case for case in part] for part in (dataset.source, dataset.target, dataset.validation)]


@pytest.mark.parametrize("edition", TRAINING)
@pytest.mark.parametrize("top_folder", [True, False])
def test_unpacked_archives_are_read_as_the_dataset_that_they_hold(
    edition: str, top_folder: bool, tmp_path: Path, repository: Path
) -> None:
    settings = {"cases": 1, "validation": 1, "field_of_view_mm": (40, 40, 20), "coarsen": 4, "processes": 1}
    dataset = write_phantom_dataset(tmp_path / "phantom", edition=edition, **settings)
    archives_of(dataset, tmp_path / "Downloads", top_folder)
    prefix = TRAINING[edition].removesuffix("_training")
    run(commands_of("Your own data", repository)[0].replace("crossmoda2022", prefix), tmp_path)
    expected, found = read_dataset(dataset), read_dataset(tmp_path / "DATA")
    assert found.edition == edition
    assert found.labels == expected.labels
    assert cases(found) == cases(expected)
    assert all(cases(found))


def test_three_commands_lead_from_the_archives_to_a_submission(
    tiny_dataset: Path, tmp_path: Path, repository: Path
) -> None:
    archives_of(tiny_dataset, tmp_path / "Downloads", top_folder=True)
    for name in ("bundles", "configs"):
        (tmp_path / name).symlink_to(repository / name)
    unpack, train, submit = commands_of("Your own data", repository)
    run(unpack, tmp_path)
    run(train, tmp_path, **TINY)
    run(submit, tmp_path)
    manifest = read_json(tmp_path / "submission" / "manifest.json")
    assert manifest["edition"] == "2022"
    assert sorted(manifest["cases"]) == cases(read_dataset(tiny_dataset))[2]
    assert (tmp_path / "submission" / manifest["archive"]["file"]).is_file()
