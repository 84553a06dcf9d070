"""Unsupervised cross-modality segmentation of vestibular schwannoma and cochlea.

Geometry, wherever a docstring does not say otherwise: arrays are (C, X, Y, Z) or (X, Y, Z) in RAS+ (x grows towards the
patient's right, y to the front, z to the head), an affine maps voxel centres to millimetres, spacing is in mm, volumes
are in mm3. Labels are known by name (``crossmoda.labels``), never by number.
"""

__version__ = "0.1.0"
