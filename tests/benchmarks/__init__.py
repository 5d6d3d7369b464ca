"""Benchmarks of the hot pieces, for `make bench`; named bench_*.py so that no test run collects them."""
