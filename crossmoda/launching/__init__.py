"""Independent work, one piece after another in this process or several at once on a Dask cluster's workers.

This package and what it imports are light, because Dask's workers import it, while trainings run in processes of
their own.
"""

from crossmoda.launching.cluster import Cluster, launcher_for
from crossmoda.launching.pieces import Course, Launcher, Piece, follow

__all__ = ["Cluster", "Course", "Launcher", "Piece", "follow", "launcher_for"]
