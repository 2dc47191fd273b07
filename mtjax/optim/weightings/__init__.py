"""Weightings: the update from the losses."""
# One task a step.
from mtjax.optim.weightings.unmixed import unmixed
