"""Unpaired translation of ceT1 to hrT2: networks, trainers, slices, tumour blending, and how to judge the result."""
