"""Draw what the synthetic teacher shows a segmenter: patches, each with a contrast, a pose and a scanner of its own.

python -m crossmoda teacher runs/teacher --cases 24
python scripts/draw_teacher.py --maps runs/teacher --output docs/images/teacher_patches.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from crossmoda.command_line import run_command
from crossmoda.data.teacher import teacher_cases
from crossmoda.files import atomic_path
from crossmoda.labels import COCHLEA, VS

COLOURS = {VS: "#ff5a5a", COCHLEA: "#41d9ff"}
CONFIGS = Path("bundles/vs_cochlea_hrt2_segmentation/configs")


def main(maps: str, output: str, rows: int = 5, columns: int = 8, seed: int = 0) -> None:
    """Draw the slice of each patch that shows most of VS and cochlea, or the middle one of a patch that shows neither.

    Args:
        maps: a folder of tissue maps.
        output: the picture to write.
        rows: of patches.
        columns: of patches.
        seed: the same seed draws the same patches.
    """
    cases = teacher_cases(maps)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in ("train", "teacher")])
    structures = parser["structures"]
    draw = parser.get_parsed_content("teacher_patches::transforms::0")  # as trainings draw
    draw.set_random_state(seed)
    figure = Figure(figsize=(1.8 * columns, 1.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, axes in enumerate(np.atleast_2d(figure.subplots(rows, columns)).flat):
        patch = draw(cases[number % len(cases)])
        image, label = (np.asarray(patch[key])[0] for key in ("image", "label"))
        level = int((label > 0).sum(axis=(0, 1)).argmax()) if label.any() else label.shape[2] // 2
        axes.imshow(image[..., level].T, cmap="gray", origin="lower", vmin=-2, vmax=3)
        for value, structure in enumerate(structures, 1):
            mask = label[..., level] == value
            if mask.any():
                axes.contour(mask.T, [0.5], colors=COLOURS[structure], linewidths=0.7)
        axes.set_axis_off()
    with atomic_path(Path(output)) as partial:
        figure.savefig(partial, dpi=70, metadata={"Software": None})
    print(f"written: {output}")


if __name__ == "__main__":
    run_command(main)
