"""Run the loop on the few real volumes, then translate and segment scans of other origin, and print what came out.

    python scripts/run_on_real_volumes.py --output_dir runs/real

The volumes are looked for in ``../shared/real`` or in the folder that CROSSMODA_REAL_DATA names. vs_gk_99 (ceT1)
teaches with its label, vs_gk_98 (hrT2) without; the label of vs_gk_98 is read for the evaluation alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

from pathlib import Path

import torch
from real_volumes import item, prepare, real_folder

from crossmoda.command_line import run_command
from crossmoda.data.datalist import save_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.labels import VS
from crossmoda.self_training import current_segmenter, load_run
from crossmoda.self_training.bundles import make_workflow, run_workflow
from crossmoda.self_training.views import translated

CONFIGS = ["bundles/vs_cochlea_self_training/configs/train.yaml", "configs/real_small.yaml"]
THICK_CET1 = ("tcga_fg_6692_ceT1.nii.gz", "brain1_ceT1.nrrd")  # 5 to 6.5 mm slices, no VS
THICK_T2 = ("tcga_fg_6692_T2.nii.gz",)


def main(output_dir: str = "runs/real") -> None:
    """Do everything and print a table.

    Args:
        output_dir: the run folder.
    """
    real = real_folder()
    if real is None:
        raise CrossmodaError("../shared/real: the real volumes are not there; set CROSSMODA_REAL_DATA to their folder")
    run = Path(output_dir)
    dataset = prepare(real, run.parent / f"{run.name}_data")
    settings = {"dataset_dir": str(dataset / "datalist.json"), "truth_dir": str(dataset / "truth")}
    run_workflow(make_workflow(CONFIGS, "train", output_dir=str(run), **settings))
    translate_others(run, real)
    segment_others(run, real)
    report(run)


def others(run: Path, real: Path, names: tuple[str, ...], section: str) -> Path:
    """Write a datalist of further scans as one section, and return its path."""
    items = [item(name.split(".")[0], real / name) | {"site": "unknown"} for name in names]
    path = run / f"others_{section}.json"
    save_datalist(
        path, {"edition": "plain", "labels": {VS: 1}, "source": [], "target": [], "validation": [], section: items}
    )
    return path


def translate_others(run: Path, real: Path) -> None:
    """Render ceT1 scans with thick slices as pseudo-hrT2, and check that each lies on its scan's grid."""
    datalist, output = others(run, real, THICK_CET1, "source"), run / "others"
    view = translated(load_run(run).work.views)["cyclegan"]
    weights = run / "round_0" / "translator_cyclegan" / "model.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    view.run("inference", device, dataset_dir=str(datalist), output_dir=str(output), weights=str(weights))
    for name in THICK_CET1:
        made = next(output.glob(f"{name.split('_ceT1')[0]}*_hrT2.nii.gz"))
        print(f"translated {name}: same grid {same_grid(made, real / name)}")


def segment_others(run: Path, real: Path) -> None:
    """Segment T2 and ceT1 scans with thick slices, and say what was found on which grid."""
    names = (*THICK_T2, *THICK_CET1)
    datalist, output = others(run, real, names, "target"), run / "others"
    workflow = current_segmenter(
        run, dataset_dir=str(datalist), output_dir=str(output), uncertainty_dir=str(output), sections=["target"]
    )
    workflow.run()
    workflow.finalize()
    for name in names:
        made = output / f"{name.split('.')[0]}_Label.nii.gz"
        voxels = int((read_volume(made).array > 0).sum())
        print(f"segmented {name}: same grid {same_grid(made, real / name)}, {voxels} voxels of VS (true: 0)")


def report(run: Path) -> None:
    """Print the Dice of both rounds on the one hrT2 scan."""
    for number in (0, 1):
        dice = read_json(run / f"round_{number}" / "metrics.json")["structures"][VS]["dice"]["mean"]
        print(f"round {number}: VS Dice {dice:.3f} on vs_gk_98")


if __name__ == "__main__":
    run_command(main)
