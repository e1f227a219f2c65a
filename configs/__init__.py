"""Experiments as ml_collections configs: each file holds what differs from ``defaults.py``."""
