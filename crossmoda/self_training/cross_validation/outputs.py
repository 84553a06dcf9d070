"""What a cross-validation leaves: the overlay ``best.yaml``, figures as JSON, table and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from crossmoda.files import atomic_path, write_text
from crossmoda.labels import FULL_NAMES
from crossmoda.self_training.bundles import PLACE_KEYS, BundleUse
from crossmoda.self_training.cross_validation.checks import AGREED, as_component
from crossmoda.self_training.cross_validation.choice import Result, losses, rank
from crossmoda.self_training.cross_validation.settings import POSTPROCESSING_KEY

FOLDER_KEY = "cross_validation_dir"


def best_overlay(
    use: BundleUse, transforms: Sequence[Mapping[str, Any]], weights: Sequence[Path], output: Path
) -> dict[str, Any]:
    """Return what makes ``inference.yaml`` and ``ensemble.yaml`` the best configuration with its post-processing.

    Everything that the configuration's overlays and settings change is in it, and, changed or not, the network and
    what training and inference must agree on, so that later defaults of the bundle do not matter.

    Args:
        use: the configuration; its first overlay is ``ensemble.yaml``.
        transforms: the post-processing.
        weights: of all folds, below ``output``.
        output: the folder of the cross-validation. It is named once, so that a folder that has been moved takes one
            override, ``--cross_validation_dir``; the weights count from it.
    """
    plain = _merged(BundleUse(use.root, inference_overlays=use.inference_overlays[:1]))
    chosen = _merged(use)
    changed = {key: value for key, value in chosen.items() if key in AGREED or key not in plain or plain[key] != value}
    places = [f"'/{path.relative_to(output).as_posix()}'" for path in weights]
    return {
        FOLDER_KEY: str(output.resolve()),
        "members": [f"$@{FOLDER_KEY} + {place}" for place in places],
        **changed,
        POSTPROCESSING_KEY: as_component(transforms),
    }


def _merged(use: BundleUse) -> dict[str, Any]:
    """Return the inference configuration with its imports, but without what says where and on what it runs."""
    parser = ConfigParser()
    parser.read_config([str(file) for file in use.files("inference")])
    parser.update(use.overrides("inference"))
    places = {*PLACE_KEYS, parser.meta_key} - {"imports"}
    return {key: value for key, value in parser.get().items() if key not in places}


def write_best(path: Path, overlay: Mapping[str, Any], result: Result, root: str) -> None:
    """Write ``best.yaml`` with a header that tells how to use it."""
    configs = Path(root) / "configs"
    files = ",".join(f"'{file}'" for file in (configs / "inference.yaml", configs / "ensemble.yaml", path))
    header = f"""\
# Use after inference.yaml and ensemble.yaml: what did best in cross-validation, '{result.configuration}'
# with post-processing '{result.postprocessing}' (mean Dice {result.dice:.4f} on patients left out).
# Predicts with the mean of all folds' probabilities.
#
#   python -m monai.bundle run --config_file "[{files}]" --dataset_dir DIR --output_dir PRED
#
# Weights are those below {FOLDER_KEY}; where that folder has been moved to, --{FOLDER_KEY} FOLDER tells.
# Made by python -m crossmoda cross_validate, which explains the choice in cross_validation.md beside this file.

"""
    body = yaml.dump(dict(overlay), Dumper=_Plain, sort_keys=False, default_flow_style=None, width=120)
    write_text(path, header + body)


class _Plain(yaml.SafeDumper):
    """Write what occurs twice twice, since anchors mean nothing to people and confuse a merge."""

    def ignore_aliases(self, data: Any) -> bool:
        """Refuse anchors."""
        return True


def markdown(
    results: Sequence[Result], best: Result, reason: str, structures: Sequence[str], warnings: Sequence[str]
) -> str:
    """Return the results as a table, the best first, what is chosen in bold."""
    titles = ["configuration", "post-processing", "mean Dice", "mean ASSD, mm"]
    for name in structures:
        titles += [f"{name} Dice", f"{name} ASSD, mm"]
    lines = [titles, ["---"] * len(titles)]
    for result in sorted(results, key=rank):
        row = [result.configuration, result.postprocessing, f"{result.dice:.4f}", f"{result.assd:.3f}"]
        for name in structures:
            found = result.structures[name]
            row += [_spread(found["dice"], 3), _spread(found["assd"], 2)]
        lost = losses(result, results, structures)
        row[1] += f" (loses on {', '.join(lost)})" if lost else ""
        if result is best:
            row = [f"**{cell}**" for cell in row]
            row[0] += " (chosen)"
        lines.append(row)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    chosen = f"Chosen: {best.configuration} with post-processing {best.postprocessing}: {reason}."
    notes = "".join(f"\n- {warning}" for warning in warnings)
    return f"{table}\n\n{chosen}\n" + (f"\nTo look at:\n{notes}\n" if notes else "")


def _spread(summary: Mapping[str, float], digits: int) -> str:
    return f"{summary['mean']:.{digits}f} ± {summary['std']:.{digits}f}"


def draw(path: Path, cases: Mapping[str, Sequence[Mapping[str, Any]]], structures: Sequence[str]) -> None:
    """Draw the Dice of every case, a box and its points for each configuration, one plot for each structure.

    Args:
        path: of the PNG.
        cases: configuration -> its cases, each ``{<structure>: {"dice": value}}``.
        structures: in the plots' order.
    """
    figure = Figure(figsize=(1.5 + 1.6 * len(cases) * len(structures), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes_row = figure.subplots(1, len(structures), sharey=True, squeeze=False)[0]
    generator = np.random.default_rng(0)
    for axes, name in zip(axes_row, structures, strict=True):
        values = [[case[name]["dice"] for case in found if name in case] for found in cases.values()]
        axes.boxplot(values, showfliers=False, widths=0.6)
        for number, dice in enumerate(values, start=1):
            places = number + generator.uniform(-0.18, 0.18, len(dice))
            axes.plot(places, dice, "o", markersize=3.5, alpha=0.6, color="#2e86c1")
        axes.set_xticks(range(1, len(cases) + 1), list(cases))
        axes.set_title(FULL_NAMES.get(name, name), fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    axes_row[0].set_ylabel("Dice of each left-out case")
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})
