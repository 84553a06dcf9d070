"""Several systems on the same data, as one table and one page."""

from crossmoda.evaluation.benchmark.page import write_page
from crossmoda.evaluation.benchmark.results import Benchmark, Variant, joined, read_results

__all__ = ["Benchmark", "Variant", "joined", "read_results", "write_page"]
