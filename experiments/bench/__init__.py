"""Benchmarks: interleaved medians and ratios, never single times."""
