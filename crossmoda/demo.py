"""The demonstration: a synthetic dataset, the whole loop on it, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crossmoda.files import read_json


def run_demo(run: Path, dataset: Path, configs: Sequence[Path]) -> None:
    """Write the synthetic dataset, run the self-training bundle with the demo's settings, and print the outcome.

    Args:
        run: the run folder.
        dataset: folder for the synthetic dataset, whose parameters are the ``phantom`` entry of the last configuration.
        configs: configuration files of the loop, merged from left to right.
    """
    from crossmoda.data.phantom import write_phantom_dataset
    from crossmoda.unknown_keys import require_arguments

    settings = yaml.safe_load(configs[-1].read_text(encoding="utf-8"))["phantom"]
    require_arguments(f"{configs[-1]}: phantom", write_phantom_dataset, settings)
    write_phantom_dataset(dataset, **settings)
    print(command_line(run, dataset, configs), flush=True)

    from crossmoda.self_training.bundles import make_workflow, run_workflow

    run_workflow(make_workflow(configs, "train", dataset_dir=str(dataset), output_dir=str(run)))
    print(outcome(read_json(run / "comparison.json")))
    print(f"\nreport: {run / 'report.html'}\nnext:   make serve")


def command_line(run: Path, dataset: Path, configs: Sequence[Path]) -> str:
    """Return the command that does the same by MONAI's own means."""
    files = ",".join(f"'{file}'" for file in configs)
    return f'python -m monai.bundle run --config_file "[{files}]" --dataset_dir {dataset} --output_dir {run}'


def outcome(comparison: dict[str, Any]) -> str:
    """Return the four stages' mean Dice and ASSD per structure, and what was recovered, as a table."""
    stages = {
        "source_only": "trained on ceT1 alone",
        "translated": "after translation",
        "self_trained": "after self-training",
        "oracle": "trained on hrT2 truth",
    }
    structures = list(comparison["oracle"])
    lines = [
        f"\n{'hrT2 scans never trained on':<28}"
        + "".join(f"{name + ' Dice':>16}{'ASSD mm':>10}" for name in structures)
    ]
    for stage, title in stages.items():
        values = comparison[stage]
        cells = "".join(f"{values[s]['dice']['mean']:>16.3f}{values[s]['assd']['mean']:>10.2f}" for s in structures)
        lines.append(f"{title:<28}{cells}")
    recovered = "".join(
        f"{comparison['recovered'][s]:>16.0%}{'':>10}" if s in comparison["recovered"] else f"{'-':>26}"
        for s in structures
    )
    lines.append(f"{'recovered':<28}{recovered}")
    return "\n".join(lines)
