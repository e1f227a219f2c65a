"""Gradients through discrete choices in JAX.

The reference implementation of *Categorical Reparameterization with Gumbel-Softmax* (Jang, Gu,
Poole, ICLR 2017). Everything here is written for one example; batches, samples, seeds and
hyperparameters are added by ``jax.vmap``. Start with :mod:`gsm.estimators`.
"""

from gsm import xla

xla.warn_of_wrong_sums()
