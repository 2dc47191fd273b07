"""Aggregators: the update from the Gramian or the stacked gradients."""
# The shortest vector in the convex hull.
from mtjax.optim.aggregators.mgda import mgda
from mtjax.optim.aggregators.mgda_ub import mgda_ub

# Projections onto the directions that harm no task.
from mtjax.optim.aggregators.dualproj import dualproj
from mtjax.optim.aggregators.pcd import pcd
from mtjax.optim.aggregators.upgrad import upgrad

# The worst-off task, and fairness.
from mtjax.optim.aggregators.cagrad import cagrad
from mtjax.optim.aggregators.fairgrad import fairgrad
from mtjax.optim.aggregators.nash_mtl import nash_mtl

# Equal angles, and other alignment.
from mtjax.optim.aggregators.aligned_mtl import aligned_mtl
from mtjax.optim.aggregators.config import config
from mtjax.optim.aggregators.imtl_g import imtl_g
from mtjax.optim.aggregators.m_config import m_config

# Pairwise surgery in random order.
from mtjax.optim.aggregators.gradvac import gradvac
from mtjax.optim.aggregators.pcgrad import pcgrad

# Robust means.
from mtjax.optim.aggregators.krum import krum
from mtjax.optim.aggregators.trimmed_mean import trimmed_mean

# Around any rule that works by weights.
from mtjax.optim.aggregators.cr_mogm import cr_mogm

# Min-norm weights kept from step to step, from independent batches or tracked gradients.
from mtjax.optim.aggregators.moco import moco
from mtjax.optim.aggregators.modo import modo
from mtjax.optim.aggregators.sdmgrad import sdmgrad

# Balance of scales, with a memory of how the tasks began or went on.
from mtjax.optim.aggregators.db_mtl import db_mtl
from mtjax.optim.aggregators.excess_mtl import excess_mtl
from mtjax.optim.aggregators.excess_mtl import excess_mtl as excessmtl

# Signs and directions.
from mtjax.optim.aggregators.graddrop import graddrop
from mtjax.optim.aggregators.rotograd import cayley, rotation_gradients, rotation_loss, rotograd
