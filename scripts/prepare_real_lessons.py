"""Write a datalist of the few real volumes that may teach, with what is known of them and no more.

    python scripts/prepare_real_lessons.py --output_dir runs/real_lessons

The ceT1 of vs_gk_99 has a label of its VS alone. The inner ear is healthy: it has no VS; its cochlea is not labelled.
Both are learnt from with ``variant_partial_labels.yaml``, which charges nothing for what a label leaves open.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from real_volumes import item, real_folder

from crossmoda.command_line import run_command
from crossmoda.data.datalist import save_datalist
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, VS


def main(output_dir: str = "runs/real_lessons") -> None:
    """Write ``datalist.json`` and the inner ear's empty label.

    Args:
        output_dir: for both.
    """
    real, output = real_folder(), Path(output_dir)
    if real is None:
        raise CrossmodaError("the real volumes are not there; name their folder in CROSSMODA_REAL_DATA")
    output.mkdir(parents=True, exist_ok=True)
    label = real / "vs_gk_99_ceT1_Label.nii.gz"
    known = {"labels": {VS: 1}}
    tumour = item("vs_gk_99", real / "vs_gk_99_ceT1.nii.gz") | {"label": str(label.resolve())} | known
    ear = real / "inner_ear_right_T2.nii.gz"
    empty = write_empty_label(ear, output / "inner_ear_right_Label.nii.gz")
    healthy = item("inner_ear_right", ear) | {"label": str(empty.resolve())} | known
    sections = {"source": [tumour], "target": [healthy], "validation": []}
    datalist = {"edition": "plain", "labels": {VS: 1, COCHLEA: 2}, **sections}
    save_datalist(output / "datalist.json", datalist)
    print(f"written: {output}/datalist.json")


def write_empty_label(image: Path, path: Path) -> Path:
    """Write a label without any structure on an image's grid."""
    scan = read_volume(image)
    write_volume(path, np.zeros(scan.array.shape, np.uint8), scan.affine)
    return path


if __name__ == "__main__":
    run_command(main)
