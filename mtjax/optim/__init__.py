"""One update out of T tasks: aggregators, weightings and sharpness, each an optax transform of stacked gradients."""
# The contract, and the algebra that methods of one's own need.
from mtjax.optim.base import Aggregator, Info, State, from_jacobian, from_weights
from mtjax.optim.stacked import combine, cross_gramian, gramian
# Aggregators: the shortest vector in the convex hull.
from mtjax.optim.aggregators import mgda, mgda_ub
# Aggregators: projections onto the directions that harm no task.
from mtjax.optim.aggregators import dualproj, pcd, upgrad
# Aggregators: the worst-off task, and fairness.
from mtjax.optim.aggregators import cagrad, fairgrad, nash_mtl
# Aggregators: equal angles, and other alignment.
from mtjax.optim.aggregators import aligned_mtl, config, imtl_g, m_config
# Aggregators: pairwise surgery in random order.
from mtjax.optim.aggregators import gradvac, pcgrad
# Aggregators: robust means.
from mtjax.optim.aggregators import krum, trimmed_mean
# Aggregators: around any rule that works by weights.
from mtjax.optim.aggregators import cr_mogm
