"""One update out of T tasks: aggregators, weightings and sharpness, each an optax transform of stacked gradients."""
# The contract, and the algebra that methods of one's own need.
from mtjax.optim.base import Aggregator, Info, State, from_jacobian, from_weights
from mtjax.optim.stacked import combine, cross_gramian, gramian

# Weightings: fixed scalarisations of the losses.
from mtjax.optim.weightings import cosmos, ew, geometric, gls, linear_scalarisation
from mtjax.optim.weightings import pbi, scale_invariant, si, stch, tchebycheff

# Weightings that are drawn, trained, or follow the course of the losses.
from mtjax.optim.weightings import coba, dwa, famo, gradnorm, imtl_l, rlw, self_paced, uncertainty, uw

# Sharpness-aware minimisation: a second gradient at a perturbed point; `sharpness.sharpness` measures it.
from mtjax.optim.sharpness import asam, fsam, ftl, gsam, looksam, sam
