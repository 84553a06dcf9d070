"""Measure the phantom against real volumes and draw both: `python scripts/compare_phantom_with_real.py --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the project need not be installed


def main() -> None:
    """Print the table of docs/phantom.md and write its pictures."""
    parser = argparse.ArgumentParser(description="Measure the synthetic posterior fossa against real volumes.")
    default = os.environ.get("CROSSMODA_REAL_DATA", str(ROOT.parent / "shared" / "real"))
    parser.add_argument("--real", type=Path, default=Path(default), help="folder of the real volumes")
    parser.add_argument("--patients", type=int, default=24, help="number of synthetic patients to measure")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    arguments = parser.parse_args()

    from crossmoda.data.phantom import comparison

    for path in comparison.draw_pictures(arguments.images, arguments.real):
        print(f"wrote {path}")
    print(comparison.table(comparison.phantom_figures(arguments.patients), comparison.real_figures(arguments.real)))


if __name__ == "__main__":
    main()
