"""Losses of single examples: `loss(outputs, label) -> [B]`, in float32 whatever the compute dtype."""
# One of several classes, given as an index or as a distribution.
from mtjax.losses.classification import sigmoid_xent, soft_xent, softmax_xent

# Ordered classes.
from mtjax.losses.ordinal import ordinal_nll

# Numbers.
from mtjax.losses.regression import huber, mae, mse

# Token losses of a batch of several tasks -> a scalar.
from mtjax.losses.mftcoder import focal_mean, focal_sums, mft_focal, mft_loss, mft_mean, mft_sums
