"""Benchmarks and other things that are run by hand: ``python -m scripts.bench``."""
