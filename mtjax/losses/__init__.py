"""Losses of single examples: `loss(outputs, label) -> [B]`, in float32 whatever the compute dtype."""
# One of several classes, given as an index or as a distribution.
from mtjax.losses.classification import sigmoid_xent, soft_xent, softmax_xent

# Ordered classes.
from mtjax.losses.ordinal import ordinal_nll

# Numbers.
from mtjax.losses.regression import huber, mae, mse
