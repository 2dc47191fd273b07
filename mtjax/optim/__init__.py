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

# Aggregators that keep min-norm weights from step to step, from independent batches or tracked gradients.
from mtjax.optim.aggregators import moco, modo, sdmgrad

# Aggregators that balance scales with a memory of how the tasks began or went on.
from mtjax.optim.aggregators import db_mtl, excess_mtl, excessmtl

# Aggregators of signs and directions.
from mtjax.optim.aggregators import cayley, graddrop, rotation_gradients, rotation_loss, rotograd

# Weightings: fixed scalarisations of the losses.
from mtjax.optim.weightings import cosmos, ew, geometric, gls, linear_scalarisation
from mtjax.optim.weightings import pbi, scale_invariant, si, stch, tchebycheff

# Weightings that are drawn, trained, or follow the course of the losses.
from mtjax.optim.weightings import coba, dwa, famo, gradnorm, imtl_l, rlw, self_paced, uncertainty, uw

# One task a step: the draw, and the optimizer that balances it.
from mtjax.optim.weightings import unmixed
from mtjax.optim.tbgn import scale_by_tbgn, tbgn

# Sharpness-aware minimisation: a second gradient at a perturbed point; `sharpness.sharpness` measures it.
from mtjax.optim.sharpness import asam, fsam, ftl, gsam, looksam, sam
