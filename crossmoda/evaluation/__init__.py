"""The challenge's metrics, comparisons of runs, and the report."""
