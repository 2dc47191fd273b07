"""Weightings: the update from the losses (GradNorm: and from the norms of the gradients)."""
# Fixed scalarisations of the losses.
from mtjax.optim.weightings.geometric import geometric, gls
from mtjax.optim.weightings.linear_scalarisation import ew, linear_scalarisation
from mtjax.optim.weightings.scalarisations import cosmos, pbi, tchebycheff
from mtjax.optim.weightings.scale_invariant import scale_invariant, si
from mtjax.optim.weightings.stch import stch

# Drawn at random.
from mtjax.optim.weightings.rlw import rlw

# With a parameter a task that is trained.
from mtjax.optim.weightings.famo import famo
from mtjax.optim.weightings.gradnorm import gradnorm
from mtjax.optim.weightings.imtl_l import imtl_l
from mtjax.optim.weightings.uncertainty import uncertainty, uw

# From the course of the losses, in training or on held-out batches.
from mtjax.optim.weightings.coba import coba
from mtjax.optim.weightings.dwa import dwa
from mtjax.optim.weightings.self_paced import self_paced

# One task a step.
from mtjax.optim.weightings.unmixed import unmixed
