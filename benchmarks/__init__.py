"""Benchmarks: `make bench` runs them all and prints their tables. Figures are ratios and medians of one run."""
