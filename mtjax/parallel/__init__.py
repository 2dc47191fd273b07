"""The device mesh, and how arrays lie on it."""
from mtjax.parallel.activations import by_rows, gathered, on
from mtjax.parallel.mesh import (
  AXES,
  batch_parts,
  batch_sharding,
  everywhere,
  host_rows,
  make_mesh,
  one_device,
  put_batch,
  replicated,
)
from mtjax.parallel.rules import DEFAULT_RULES, partitions, shardings

__all__ = ['AXES', 'DEFAULT_RULES', 'batch_parts', 'batch_sharding', 'by_rows', 'everywhere', 'gathered', 'host_rows',
           'make_mesh', 'on', 'one_device', 'partitions', 'put_batch', 'replicated', 'shardings']
