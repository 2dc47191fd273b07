"""Metrics: mergeable states with `init`, `update`, `merge` and `compute`."""
# What all are made of, and several as one.
from mtjax.metrics.base import Collected, Mean, MetricSpec
from mtjax.metrics.collection import Collection

# Of classes.
from mtjax.metrics.calibration import ece
from mtjax.metrics.classification import accuracy, balanced_accuracy, log_loss, macro_f1, quadratic_kappa

# Of scores, by rank.
from mtjax.metrics.ranking import auc, average_precision

# Of numbers.
from mtjax.metrics.regression import mae, mse, pearson, r2, rmse, spearman
