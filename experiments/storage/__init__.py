"""Files that runs and measurements leave: JSON, CSV, provenance and the record of a run.

Nothing here imports jax when it is imported, or another package of the project.
"""
