"""The commands. Run from the repository root: ``python -m experiments.train --config=...``."""

import warnings

with warnings.catch_warnings():  # importing gsm warns of what the next lines mend
    warnings.simplefilter("ignore")
    from gsm import xla

# Here, for every command: XLA reads its options once, before it computes anything.
xla.keep_sums_right()
