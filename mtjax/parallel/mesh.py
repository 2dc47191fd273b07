"""One mesh with named axes, and how batches lie on it.

    data     batches are split over it, parameters are whole
    fsdp     batches are split over it too, and so are parameters, gradients and optimizer state
    tensor   the heads of attention and the hidden units of an MLP are split over it
    expert   the experts of a layer are split over it

Every axis may have size 1. All are `AxisType.Auto`: what is split how is said for parameters (`mtjax.parallel.rules`)
and batches, and the compiler finds the rest.
"""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from mtjax.config import check_keys, to_dict

AXES = ('data', 'fsdp', 'tensor', 'expert')
BATCH_AXES = ('data', 'fsdp')


def make_mesh(config: Mapping[str, int] | None = None) -> Mesh:
  """The mesh over the devices of all hosts.

  Args:
    config: {axis: size}; -1, which one axis may have, = what the others leave over. An axis left out has size 1, but
      for `data`, which is -1 where no other is.

  Example:
    >>> make_mesh({'data': 1}).shape['data']
    1
  """
  config = to_dict(config or {})
  check_keys(config, AXES, 'mesh')
  sizes = {axis: config.get(axis, 1) for axis in AXES}
  if 'data' not in config and -1 not in sizes.values():
    sizes['data'] = -1
  for axis, size in sizes.items():
    if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and size != -1):
      raise ValueError(f"'mesh.{axis}' must be a whole number >= 1, or -1 for what is left over; got {size!r}.")
  open_ended = [axis for axis, size in sizes.items() if size == -1]
  if len(open_ended) > 1:
    raise ValueError(f"'mesh.{open_ended[0]}' and 'mesh.{open_ended[1]}' are both -1; "
                     'only one can be what is left over.')
  available, fixed = jax.device_count(), math.prod(size for size in sizes.values() if size > 0)
  if open_ended:
    if available % fixed:
      raise ValueError(f"'mesh' = {config} asks for a multiple of {fixed} devices, of which there are {available}.")
    sizes[open_ended[0]] = available // fixed
  total = math.prod(sizes.values())
  if total > available or (jax.process_count() > 1 and total != available):
    few = 'exactly' if jax.process_count() > 1 else 'at most'
    raise ValueError(f"'mesh' = {config} asks for {total} devices ({sizes}), but {few} {available}, the number of "
                     'devices, can be used.')
  return _mesh(jax.devices()[:total], tuple(sizes.values()))


def one_device(device: jax.Device) -> Mesh:
  """The mesh of one device."""
  return _mesh([device], (1,) * len(AXES))


def batch_parts(mesh: Mesh) -> int:
  """Over how many devices the rows of a batch are split."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def everywhere(mesh: Mesh) -> NamedSharding | None:
  """`replicated`, for what `jax.jit` returns; None of a single device: the result stays where the arguments are.

  So one jitted function serves runs that lie on different devices.
  """
  return replicated(mesh) if mesh.size > 1 else None


def batch_sharding(mesh: Mesh) -> Sharding:
  """The leading axis split over `data` and `fsdp`. On one device simply that: arrays get there sooner."""
  if mesh.size == 1:
    return SingleDeviceSharding(mesh.devices.flat[0])
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def host_rows(batch_size: int) -> slice:
  """The rows of a global batch that this host holds: a contiguous part, in the order of the hosts."""
  share = batch_size // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch: Any, sharding: Sharding) -> Any:
  """This host's rows (a tree of numpy arrays) -> global arrays on the mesh."""
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _mesh(devices: Sequence[jax.Device], shape: tuple[int, ...]) -> Mesh:
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
