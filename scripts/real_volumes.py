"""The few real volumes that scripts learn from or are judged by, where they are present."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from crossmoda.data.datalist import save_datalist
from crossmoda.labels import VS


def real_folder() -> Path | None:
    """Return the folder that CROSSMODA_REAL_DATA names, or ``../shared/real``; None where the volumes are not there."""
    folder = Path(os.environ.get("CROSSMODA_REAL_DATA", "../shared/real"))
    return folder if (folder / "vs_gk_98_hrT2.nii.gz").is_file() else None


def prepare(real: Path, dataset: Path) -> Path:
    """Write the datalist and, apart from it, the label that judges; return their folder."""
    (dataset / "truth").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(real / "vs_gk_98_hrT2_Label.nii.gz", dataset / "truth" / "vs_gk_98_Label.nii.gz")
    target = item("vs_gk_98", real / "vs_gk_98_hrT2.nii.gz")
    source = item("vs_gk_99", real / "vs_gk_99_ceT1.nii.gz") | {"label": str(real / "vs_gk_99_ceT1_Label.nii.gz")}
    datalist = {"edition": "plain", "labels": {VS: 1}, "source": [source], "target": [target], "validation": [target]}
    save_datalist(dataset / "datalist.json", datalist)
    return dataset


def item(case: str, image: Path) -> dict[str, Any]:
    """Return a datalist's item."""
    return {"case": case, "site": "ldn", "image": str(image.resolve())}
