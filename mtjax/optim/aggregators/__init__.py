"""Aggregators: the update from the Gramian or the stacked gradients."""
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
