"""The synthetic posterior fossa: an open, shareable stand-in for data that cannot be redistributed.

A ``Patient`` is a handful of random numbers; ``rasterise`` paints it onto any grid with partial volume; ``render``
turns tissue fractions into an image through a site's sequence equation, for the same patient as ceT1 and as hrT2.
"""

from crossmoda.data.phantom.acquisition import render
from crossmoda.data.phantom.anatomy import Patient, draw_patient, draw_varied_patient
from crossmoda.data.phantom.dataset import write_phantom_dataset
from crossmoda.data.phantom.protocols import Protocol, draw_protocol
from crossmoda.data.phantom.rasterise import Anatomy, rasterise
from crossmoda.data.phantom.scanner import Grid, Scan, draw_grid, scan

__all__ = [
    "Anatomy",
    "Grid",
    "Patient",
    "Protocol",
    "Scan",
    "draw_grid",
    "draw_patient",
    "draw_protocol",
    "draw_varied_patient",
    "rasterise",
    "render",
    "scan",
    "write_phantom_dataset",
]
