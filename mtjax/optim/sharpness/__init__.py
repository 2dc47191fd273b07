"""Sharpness-aware minimisation: a second gradient at a perturbed point."""
# One gradient: SAM and its variants.
from mtjax.optim.sharpness.asam import asam
from mtjax.optim.sharpness.fsam import fsam
from mtjax.optim.sharpness.gsam import gsam, rho_like_learning_rate
from mtjax.optim.sharpness.looksam import looksam
from mtjax.optim.sharpness.sam import sam

# Stacked gradients: a perturbed point for each task.
from mtjax.optim.sharpness.ftl import FTL, FTLState, ftl

# How sharp a point is.
from mtjax.optim.sharpness.measure import sharpness
