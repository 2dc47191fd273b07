"""The device mesh, and how arrays lie on it."""
from mtjax.parallel.mesh import (
  AXES,
  batch_sharding,
  everywhere,
  host_rows,
  make_mesh,
  one_device,
  put_batch,
  replicated,
)

__all__ = ['AXES', 'batch_sharding', 'everywhere', 'host_rows', 'make_mesh', 'one_device', 'put_batch', 'replicated']
