"""The commands. Run from the repository root: ``python -m experiments.train --config=...``."""
