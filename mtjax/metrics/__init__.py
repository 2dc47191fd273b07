"""Metrics: mergeable states with `init`, `update`, `merge` and `compute`."""
# What all are made of, and several as one.
from mtjax.metrics.base import Collected, HostSums, Mean, MetricSpec
from mtjax.metrics.collection import Collection

# Of classes.
from mtjax.metrics.calibration import adaptive_ece, brier, classwise_ece, ece, mce, reliability
from mtjax.metrics.classification import accuracy, balanced_accuracy, kappa, linear_kappa, log_loss, macro_f1, mcc
from mtjax.metrics.classification import normalised_entropy, quadratic_kappa
from mtjax.metrics.multiple_choice import acc, acc_mutual_info, acc_norm

# Of scores, by rank.
from mtjax.metrics.gauc import gauc
from mtjax.metrics.ranking import auc, average_precision
from mtjax.metrics.recommendation import hit_rate, map_at_k, mrr, ndcg, precision_at_k, recall_at_k

# Of numbers.
from mtjax.metrics.concordance import concordance_index, survival_concordance
from mtjax.metrics.regression import mae, mse, pearson, r2, rmse, spearman

# Of pixels.
from mtjax.metrics.depth import depth_abs, depth_delta, depth_rel, depth_rmse
from mtjax.metrics.edges import boundary_f, ods_f
from mtjax.metrics.normals import angle_within, mean_angle, median_angle
from mtjax.metrics.segmentation import miou, pixel_accuracy

# Of text, on the host.
from mtjax.metrics.answers import exact_match, token_f1, wer
from mtjax.metrics.rouge import rouge1, rouge2, rouge_l
from mtjax.metrics.translation import bleu, chrf, ter
