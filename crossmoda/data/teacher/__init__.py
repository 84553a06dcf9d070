"""The synthetic teacher: varied patients kept as tissue maps, which get a new contrast whenever one is looked at.

``bank`` writes a folder of maps, ``contrast`` draws what each tissue shines like, ``acquisition`` what a scanner adds,
``patches`` cuts, bends and renders a patch for training. No real scan is needed for any of it.
"""

from crossmoda.data.teacher.bank import teacher_cases, write_tissue_maps
from crossmoda.data.teacher.patches import RandTissuePatchd
from crossmoda.data.teacher.tissue_maps import TISSUE_GROUPS, TISSUE_NAMES, TissueMap

__all__ = ["TISSUE_GROUPS", "TISSUE_NAMES", "RandTissuePatchd", "TissueMap", "teacher_cases", "write_tissue_maps"]
