"""Losses of single examples: `loss(outputs, label) -> [B]`, in float32 whatever the compute dtype."""
# One of several classes, given as an index or as a distribution.
from mtjax.losses.classification import sigmoid_xent, soft_xent, softmax_xent

# One class at each of many positions: tokens, pixels, ends of a span.
from mtjax.losses.positions import position_xent
from mtjax.losses.language_model import next_token_xent, next_tokens

# Dense maps.
from mtjax.losses.depth import depth_l1
from mtjax.losses.edges import balanced_xent, edge_xent
from mtjax.losses.normals import normal_cosine

# Ordered classes.
from mtjax.losses.ordinal import ordinal_nll

# Numbers.
from mtjax.losses.regression import huber, mae, mse

# Similarities of the rows of a batch.
from mtjax.losses.contrastive import info_nce, sup_con

# Times to an event, some of them censored.
from mtjax.losses.survival import hazard_nll, survival_curve, survival_intervals

# Token losses of a batch of several tasks -> a scalar.
from mtjax.losses.mftcoder import focal_mean, focal_sums, mft_focal, mft_loss, mft_mean, mft_sums
