"""MONAI Label app that serves a run of the self-training loop to 3D Slicer, and takes the corrections back.

    python -m monailabel.main start_server --app apps/crossmoda_label --studies RUN/review --conf run RUN \\
        --host 127.0.0.1 --port 8000

This folder only wires; what is done with labels, folders and rounds is in ``crossmoda.self_training``.
"""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("crossmoda") is None:  # a checkout that is not installed
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from lib.app import CrossmodaLabelApp

# What has been imported stays: looking through all of it again and again would take two fifths of a next case
# among a thousand.
gc.collect()
gc.freeze()

__all__ = ["CrossmodaLabelApp"]  # what MONAI Label looks for
