"""What every trainer of the project shares: seeds, resumable state, progress, weights, mixed precision.

On import, has glibc keep what large arrays leave behind (``allocation``), as every training and prediction wants it.
"""

from crossmoda.engines.allocation import keep_freed_memory
from crossmoda.engines.autocast import AutocastInferer
from crossmoda.engines.monitoring import History, NonFiniteLossStop, TimeLeftBar
from crossmoda.engines.seeding import EpochSeed, seed_everything
from crossmoda.engines.state import TrainingState
from crossmoda.engines.weights import SaveWeights, load_weights, require_own_weights, save_weights

__all__ = [
    "AutocastInferer",
    "EpochSeed",
    "History",
    "NonFiniteLossStop",
    "SaveWeights",
    "TimeLeftBar",
    "TrainingState",
    "keep_freed_memory",
    "load_weights",
    "require_own_weights",
    "save_weights",
    "seed_everything",
]

keep_freed_memory()
