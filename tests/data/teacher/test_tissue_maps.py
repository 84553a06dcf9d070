"""Tests of tissue maps: what they keep of an anatomy, and the folder that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crossmoda.data.phantom import draw_patient, rasterise
from crossmoda.data.teacher import TISSUE_GROUPS, TISSUE_NAMES, TissueMap, bank, teacher_cases, write_tissue_maps
from crossmoda.data.teacher.tissue_maps import FIRST, LABEL, LABELS, SECOND, SHARE, group_numbers
from crossmoda.errors import CrossmodaError


def test_every_tissue_belongs_to_one_group() -> None:
    grouped = [name for group in TISSUE_GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(TISSUE_NAMES)
    numbers = group_numbers()
    assert list(TISSUE_GROUPS)[numbers[TISSUE_NAMES.index("cyst")]] == "fluid"
    assert list(TISSUE_GROUPS)[numbers[TISSUE_NAMES.index("tumour_loose")]] == "tumour"


def test_a_map_keeps_two_tissues_their_shares_and_the_labels() -> None:
    patient = draw_patient(np.random.default_rng(2), 3)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = patient.frame.to_scanner(np.array([[-48.0], [-30.0], [-18.0]]))[:, 0]
    anatomy = rasterise(patient, (96, 60, 18), affine)
    voxels = TissueMap.of(anatomy).voxels
    assert voxels.shape == (4, 96, 60, 18)
    shares = voxels[SHARE] / 255.0
    assert shares.min() >= 0.5
    fractions = np.stack([anatomy.fractions.get(name, np.zeros(voxels.shape[1:])) for name in TISSUE_NAMES])
    ordered = np.sort(fractions, axis=0)
    most = np.take_along_axis(fractions, voxels[FIRST][None].astype(int), 0)[0]
    second = np.take_along_axis(fractions, voxels[SECOND][None].astype(int), 0)[0]
    np.testing.assert_allclose(most, ordered[-1], atol=1e-6)
    where = shares < 1  # where one tissue fills the voxel, the second means nothing
    np.testing.assert_allclose(second[where], ordered[-2][where], atol=1e-6)
    np.testing.assert_allclose(shares, most / (most + ordered[-2]), atol=0.5 / 255 + 1e-6)
    for name, number in LABELS.items():
        np.testing.assert_array_equal(voxels[LABEL] == number, anatomy.labels[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the maps of two patients, drawn small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "MOST_VOXELS", 100_000)
        path = tmp_path_factory.mktemp("teacher")
        path.joinpath("maps").mkdir()
        names = ["teacher_00000", "teacher_00001"]
        cases = {name: bank._write_map(path / "maps", name, 4) for name in names}
        description = {
            "version": bank.VERSION,
            "seed": 4,
            "varied": True,
            "tissues": list(TISSUE_NAMES),
            "cases": cases,
        }
        (path / "maps" / bank.DESCRIPTION).write_text(json.dumps(description))
    return path / "maps"


def test_cases_tell_where_the_structures_are(folder: Path) -> None:
    cases = teacher_cases(folder)
    assert [case["case"] for case in cases] == ["teacher_00000", "teacher_00001"]
    for case in cases:
        voxels = np.load(case["tissue_map"])
        assert voxels.shape[1:] == tuple(case["shape"])
        assert sum(case["counts"]) == np.prod(case["shape"])
        assert case["counts"][TISSUE_NAMES.index("bone")] == (voxels[FIRST] == TISSUE_NAMES.index("bone")).sum()
        for structure, numbers in (("vs", (1, 2)), ("cochlea", (3,))):
            for x, y, z in case["centres"][structure]:
                assert voxels[LABEL, x, y, z] in numbers


def test_healthy_canals_are_where_fluid_and_nerves_are_and_no_tumour(folder: Path) -> None:
    found = 0
    for case in teacher_cases(folder):
        voxels = np.load(case["tissue_map"])
        spacing = np.diag(np.array(case["affine"]))[:3]
        tumour = np.argwhere(np.isin(voxels[LABEL], (1, 2)))
        for x, y, z in case["centres"]["healthy_canal"]:
            found += 1
            near = voxels[FIRST, max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2, z]
            there = {TISSUE_NAMES[number] for number in np.unique(near)}
            assert there & {"csf", "moving_csf", "nerve", "artery"}
            if len(tumour):
                assert np.linalg.norm((tumour - [x, y, z]) * spacing, axis=1).min() > 20
    assert found > 10


def test_maps_that_are_there_are_kept_and_a_patient_follows_from_seed_and_number(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_tissue_maps(folder, 2, seed=4, workers=1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "MOST_VOXELS", 100_000)
        bank._write_map(tmp_path, "teacher_00001", 4)
    assert (tmp_path / "teacher_00001.npy").read_bytes() == (folder / "teacher_00001.npy").read_bytes()


def test_what_cannot_be_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="cases 0: give at least 1"):
        write_tissue_maps(tmp_path, 0)
    with pytest.raises(CrossmodaError, match="another seed, kind or version"):
        write_tissue_maps(folder, 2, seed=5)
    with pytest.raises(CrossmodaError, match="another seed, kind or version"):
        write_tissue_maps(folder, 2, seed=4, varied=False)
    with pytest.raises(CrossmodaError, match="crossmoda teacher"):
        teacher_cases(tmp_path)
    description = json.loads((folder / bank.DESCRIPTION).read_text())
    (tmp_path / bank.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CrossmodaError, match=r"teacher_00000\.npy is missing"):
        teacher_cases(tmp_path)


@pytest.mark.parametrize("flip", [(-1, 1, 1), (1, 1, -1)])
def test_a_map_of_flipped_axes_is_refused(folder: Path, tmp_path: Path, flip: tuple[int, int, int]) -> None:
    description = json.loads((folder / bank.DESCRIPTION).read_text())
    for name, case in description["cases"].items():
        (tmp_path / f"{name}.npy").symlink_to(folder / f"{name}.npy")
        case["affine"] = (np.array(case["affine"]) @ np.diag([*flip, 1])).tolist()
    (tmp_path / bank.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CrossmodaError, match="axes are not R, A, S"):
        teacher_cases(tmp_path)
