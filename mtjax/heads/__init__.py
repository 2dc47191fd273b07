"""Heads: `Features` -> one task's outputs."""
# What a head of your own derives from.
from mtjax.heads._base import Head

# One vector a row (features.pooled).
from mtjax.heads.classification import Classification, SoftClassification
from mtjax.heads.multilabel import MultiLabel
from mtjax.heads.ordinal import Ordinal
from mtjax.heads.regression import Regression

# A head behind a rotation of its features.
from mtjax.heads.rotation import Rotated, with_rotation_gradients
