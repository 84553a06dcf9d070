"""A small run folder in the loop's own layout, made of ellipsoids, for the tests of comparison and report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from crossmoda.data.datalist import build_datalist
from crossmoda.data.layouts import read_dataset
from crossmoda.data.volumes import write_volume
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.files import write_json, write_text

SPACING_MM = (0.9, 0.9, 1.5)
LABELS = {"vs": 1, "cochlea": 2}
AXIS_CODES_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # the challenge stores its volumes left-posterior-superior


class FakeRun:
    """Writes a dataset and a run over it.

    Args:
        root: folder for both.
        shape: voxels of every scan (X, Y, Z).
        sources, targets, validations: numbers of cases.
        rounds: scored rounds.
        anchors: whether the source-only and oracle segmenters are there.
    """

    def __init__(
        self,
        root: Path,
        shape: tuple[int, int, int] = (70, 60, 16),
        sources: int = 2,
        targets: int = 3,
        validations: int = 4,
        rounds: int = 3,
        anchors: bool = True,
    ) -> None:
        self.data, self.path, self.shape = root / "data", root / "demo", shape
        self.affine = np.diag([*SPACING_MM, 1.0]) @ AXIS_CODES_LPS
        self.rounds = rounds
        self.sources = self._scans("ceT1", "crossmoda2022_training/training_source", 1, sources)
        self.targets = self._scans("hrT2", "crossmoda2022_training/training_target", 106, targets)
        self.validations = self._scans("hrT2", "crossmoda2022_validation", 211, validations)
        for case in self.sources:
            write_volume(
                self.path / f"round_0/pseudo_hrt2/cyclegan/{case}_hrT2.nii.gz", self.scan(case, "hrT2"), self.affine
            )
        self._write_histories()
        write_json(self.path / "dataset.json", build_datalist(read_dataset(self.data)))
        for number in range(rounds):
            self._write_round(number)
        if anchors:
            self._write_scores("anchors/source_only", 7)
            self._write_scores("anchors/oracle", 0)
        self._write_current()

    def _scans(self, modality: str, folder: str, first: int, count: int) -> list[str]:
        sites = ("crossmoda2021_ldn", "crossmoda2022_etz")
        cases = [f"{sites[i % 2]}_{first + i}" for i in range(count)]
        for case in cases:
            place = self.data / folder
            write_volume(place / f"{case}_{modality}.nii.gz", self.scan(case, modality), self.affine)
            labels = place if modality == "ceT1" else self.data / "truth"
            write_volume(labels / f"{case}_Label.nii.gz", self.label(case), self.affine)
        return cases

    def _ellipsoid(self, centre: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> np.ndarray:
        grid = np.meshgrid(*[np.arange(n) for n in self.shape], indexing="ij")
        scaled = [
            (g - c * n) * s / r for g, c, n, s, r in zip(grid, centre, self.shape, SPACING_MM, radii_mm, strict=True)
        ]
        return sum(part**2 for part in scaled) <= 1

    def label(self, case: str, shift: int = 0) -> np.ndarray:
        """The truth of a case; with ``shift``, a prediction that is that many voxels off in x, the cochlea half."""
        number = int(case.rsplit("_", 1)[1])
        radius = 5.0 + number % 5
        tumour = self._ellipsoid((0.36, 0.5, 0.5), (radius, radius * 0.8, 4 + radius * 0.3))
        cochleae = self._ellipsoid((0.2, 0.45, 0.5), (3, 3, 2.5)) | self._ellipsoid((0.8, 0.45, 0.5), (3, 3, 2.5))
        label = np.zeros(self.shape, dtype=np.uint8)
        label[np.roll(cochleae, shift // 2, axis=0)] = 2
        label[np.roll(tumour, shift, axis=0)] = 1
        return label

    def scan(self, case: str, modality: str) -> np.ndarray:
        """A scan that shows the truth: bright tumour on ceT1, bright cochlea and cistern on hrT2."""
        generator = np.random.default_rng(int(case.rsplit("_", 1)[1]))
        label = self.label(case)
        image = 200.0 * self._ellipsoid((0.5, 0.55, 0.5), (28, 24, 30)) + 60 * self._ellipsoid(
            (0.5, 0.75, 0.5), (12, 8, 12)
        )
        image[label == 1] = 600 if modality == "ceT1" else 320
        image[label == 2] = 120 if modality == "ceT1" else 650
        image += 400 * self._ellipsoid((0.5, 0.35, 0.5), (10, 6, 12)) * (modality == "hrT2")
        return (ndimage.gaussian_filter(image, 0.6) + generator.normal(0, 14, self.shape)).astype(np.float32)

    def _write_histories(self) -> None:
        epochs = list(range(1, 31))
        falling = [round(2.5 * 0.92**e + 0.3, 4) for e in epochs]
        write_json(
            self.path / "round_0/translator_cyclegan/history.json",
            {
                "epoch": epochs,
                "series": {
                    "generator": falling,
                    "discriminator": [0.5 + 0.1 / e for e in epochs],
                    "cycle": [v / 3 for v in falling],
                },
            },
        )
        for number in range(self.rounds):
            dice = [round(0.8 - 0.7 * 0.9**e, 4) if e % 5 == 0 else None for e in epochs]
            history = {"epoch": epochs, "series": {"loss": falling, "val_mean_dice": dice}}
            write_json(self.path / f"round_{number}/segmenter/history.json", history)

    def _write_round(self, number: int) -> None:
        folder = self.path / f"round_{number}"
        self._write_scores(f"round_{number}", 4 - number)
        for case in self.targets:
            write_volume(folder / f"predictions/{case}_Label.nii.gz", self.label(case, 3 - number), self.affine)
        target = [self._target_item(case, index) for index, case in enumerate(self.targets)]
        validation = [{"case": case, "site": "ldn", "image": str(self.image_of(case))} for case in self.validations]
        write_json(
            folder / "datalist.json",
            {"edition": "2022", "labels": LABELS, "source": [], "target": target, "validation": validation},
        )
        if number:
            write_json(folder / "pseudo_labels" / "fates.json", dict(map(self._fate, range(len(self.targets)))))
        step = {"key": "0", "seconds": 12.5 * (number + 1), "finished": f"2026-01-0{number + 1}T10:00:00+00:00"}
        write_json(folder / "manifest.json", {"steps": {"segmenter": step}})

    def _target_item(self, case: str, index: int) -> dict:
        label = self.path / f"labels/{case}_Label.nii.gz"
        write_volume(label, self.label(case, 2), self.affine)
        status = ("pseudo", "corrected", "flagged")[index % 3]
        return {
            "case": case,
            "site": "ldn",
            "image": str(self.image_of(case)),
            "label": str(label),
            "labels": LABELS,
            "weight": 0.8,
            "provenance": {"round": 1, "model": "segmenter", "status": status},
        }

    def _fate(self, index: int) -> tuple[str, dict]:
        near = {"rule": "RequireNear", "effect": "passed", "text": "vs 3.0 mm from the nearest cochlea"}
        far = {"rule": "RequireNear", "effect": "left out", "text": "vs 12.0 mm from the nearest cochlea"}
        weighted = {"rule": "WeightByCertainty", "effect": "weighted", "text": "uncertainty 0.200: weight times 0.800"}
        kinds = (
            {"status": "pseudo", "weight": 0.8, "rules": [near, weighted], "structure_weights": {"cochlea": 0.0}},
            {"status": "corrected", "weight": 1.0, "reasons": ["corrected by a clinician"]},
            {"status": "flagged", "weight": 0.0, "reasons": ["flagged by a clinician, left out"]},
            {"status": "pseudo", "weight": 0.0, "rules": [far]},
        )
        return self.targets[index], dict(kinds[index % 4])

    def image_of(self, case: str) -> Path:
        """The hrT2 of a case."""
        return next(self.data.rglob(f"{case}_hrT2.nii.gz"))

    def _write_scores(self, folder: str, shift: int) -> None:
        predictions = self.path / folder / "predictions"
        for index, case in enumerate(self.validations):
            write_volume(predictions / f"{case}_Label.nii.gz", self.label(case, shift + index), self.affine)
        metrics = evaluate_folder(
            predictions, self.data / "truth", LABELS, LABELS, cases=self.validations, progress=False
        )
        write_json(self.path / folder / "metrics.json", metrics)

    def _write_current(self) -> None:
        last = f"round_{self.rounds - 1}"
        doubt = self.path / last / "uncertainty"
        for case in self.targets:
            edge = ndimage.gaussian_filter((self.label(case) > 0).astype(np.float32), 1.5)
            write_volume(doubt / f"{case}_uncertainty.nii.gz", 4 * edge * (1 - edge), self.affine)
        write_json(doubt / "uncertainty.json", {case: round(0.9 / (i + 1), 3) for i, case in enumerate(self.targets)})
        write_json(
            self.path / "current.json",
            {
                "round": self.rounds - 1,
                "predictions": f"{last}/predictions",
                "uncertainty": f"{last}/uncertainty",
                "datalist": f"{last}/datalist.json",
                "structures": ["vs", "cochlea"],
            },
        )
        write_text(
            self.path / "run.yaml",
            f"trainer: {{max_epochs: 30, truth_dir: '{self.data / 'truth'}'}}\nseed: 7\nmachine: {{cores: 2}}\n"
            "versions: {crossmoda: 0.1.0, monai: 1.6.1}\n",
        )


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FakeRun]:
    """A function that writes a dataset and a run and returns the ``FakeRun``."""
    return lambda **options: FakeRun(tmp_path_factory.mktemp("run"), **options)


@pytest.fixture(scope="session")
def finished_run(make_run: Callable[..., FakeRun]) -> FakeRun:
    """A run with anchors, three rounds and truth; tests must not change it."""
    return make_run()
