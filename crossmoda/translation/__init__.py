"""Unpaired translation of ceT1 to hrT2: networks, losses, trainers, slices, and how to judge the result."""
