"""Unsupervised cross-modality segmentation of vestibular schwannoma and cochlea.

Geometry, wherever a docstring does not say otherwise: arrays are (C, X, Y, Z) or (X, Y, Z) in RAS+ (x grows to the
patient's right-to-left as R->L is negative: index 0 is left-most after loading, x increases to the patient's Right, y
to Anterior, z to Superior), an affine maps voxel centres to millimetres, spacing is in mm, volumes are in mm3. Labels
are known by name (``crossmoda.labels``), never by number.
"""

__version__ = "0.1.0"
