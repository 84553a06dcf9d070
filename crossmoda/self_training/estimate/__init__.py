"""What a run of the loop will cost, told before it is begun: its own steps, timed in small."""

from crossmoda.self_training.estimate.command import estimate, estimate_command
from crossmoda.self_training.estimate.extrapolation import Estimate, extrapolate

__all__ = ["Estimate", "estimate", "estimate_command", "extrapolate"]
