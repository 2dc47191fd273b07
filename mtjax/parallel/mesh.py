"""One mesh with named axes; batches are split over its `data` axis, parameters are whole on every device."""
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from mtjax.config import check_keys, to_dict

AXES = ('data', 'fsdp', 'tensor', 'expert')


def make_mesh(config: Mapping[str, int] | None = None) -> Mesh:
  """The mesh over all devices of all hosts.

  Args:
    config: {'data': size}, -1 = all devices (the default).

  Example:
    >>> make_mesh({'data': 1}).shape['data']
    1
  """
  config = to_dict(config or {})
  check_keys(config, ('data',), 'mesh')
  size, available = config.get('data', -1), jax.device_count()
  if size == -1:
    size = available
  if not isinstance(size, int) or not 1 <= size <= available or (jax.process_count() > 1 and size != available):
    raise ValueError(f"'mesh.data' must be -1 (all) or in 1 … {available}, the number of devices, got {size!r}.")
  return _mesh(jax.devices()[:size])


def one_device(device: jax.Device) -> Mesh:
  """The mesh of one device."""
  return _mesh([device])


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def everywhere(mesh: Mesh) -> NamedSharding | None:
  """`replicated`, for what `jax.jit` returns; None of a single device: the result stays where the arguments are.

  So one jitted function serves runs that lie on different devices.
  """
  return replicated(mesh) if mesh.size > 1 else None


def batch_sharding(mesh: Mesh) -> Sharding:
  """The leading axis split over `data`. On one device simply that: arrays get there, and steps begin, sooner."""
  if mesh.size == 1:
    return SingleDeviceSharding(mesh.devices.flat[0])
  return NamedSharding(mesh, PartitionSpec('data'))


def host_rows(batch_size: int) -> slice:
  """The rows of a global batch that this host holds: a contiguous part, in the order of the hosts."""
  share = batch_size // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch: Any, sharding: Sharding) -> Any:
  """This host's rows (a tree of numpy arrays) -> global arrays on the mesh."""
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _mesh(devices) -> Mesh:
  shape = (len(devices), 1, 1, 1)
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
