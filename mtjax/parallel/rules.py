"""Sharding rules: (pattern over parameter paths, partition), first match wins.

A partition says for each axis of the parameter over which mesh axis it is split: ('fsdp', 'tensor'), with None for an
axis that is whole; () = whole on every device. With `'auto'` the largest axis that divides is split over `fsdp`.

The default rules know the names of mtjax's encoders and heads. Attention is split by heads and an MLP by hidden units
over `tensor` (Shoeybi et al., "Megatron-LM", 2019, https://arxiv.org/abs/1909.08053): one all-reduce behind the output
of each, forward; the other axis of a matrix over `fsdp` (Rajbhandari et al., "ZeRO", 2020,
https://arxiv.org/abs/1910.02054). What is named otherwise falls under 'auto'.

Optimizer state, moving averages and stacked per-task gradients [T, *shape] lie as their parameters do.
"""
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtjax import tree
from mtjax.parallel.mesh import AXES

Partition = Sequence[str | None] | str
AUTO = 'auto'

DEFAULT_RULES: tuple[tuple[str, Partition], ...] = (
  (r'^adapters/(adapters|shared|stats)/', ()),                            # small, with an axis of tasks in front
  (r'(attn|cross)/(query|key|value)/kernel$', ('fsdp', 'tensor', None)),  # [D, H, K]
  (r'(attn|cross)/(query|key|value)/bias$', ('tensor', None)),
  (r'(attn|cross)/out/kernel$', ('tensor', None, 'fsdp')),                # [H, K, D]
  (r'mlp/(fc1|gate)/kernel$', ('fsdp', 'tensor')),                        # [D, F]
  (r'mlp/(fc1|gate)/bias$', ('tensor',)),
  (r'mlp/fc2/kernel$', ('tensor', 'fsdp')),                               # [F, D]
  (r'(^|/)embed/embedding$', ('tensor', 'fsdp')),                         # [V, D]
  (r'(^|/)(norm\w*|scale|bias)(/|$)', ()),
  (r'', AUTO),
)


def partitions(params: Any, mesh: Mesh, rules: Sequence[tuple[str, Partition]] = ()) -> dict[str, PartitionSpec]:
  """{path: how the parameter is split}.

  Args:
    params: arrays, or their shapes.
    mesh: over whose axes.
    rules: the user's, tried before the default ones.

  Raises:
    ValueError: a rule that matches nothing, names no mesh axis, has too many axes, or splits what does not divide. (The
      default rules leave whole what does not divide.)
  """
  flat = tree.flatten(params)
  for pattern, partition in rules:
    _check_rule(pattern, partition)
    if not any(re.search(pattern, path) for path in flat):
      raise ValueError(f"The sharding rule {pattern!r} matches no parameter. Paths: {', '.join(list(flat)[:5])}, …")
  return {path: _partition(path, x.shape, mesh, rules) for path, x in flat.items()}


def shardings(state: Any, params: Mapping[str, PartitionSpec], shapes: Any, mesh: Mesh) -> Any:
  """The shardings of a tree that holds parameters, or what follows them: optimizer state, averages, stacked gradients.

  A leaf whose path ends in a parameter's path and has its shape lies as it does; one of shape [T, *shape] likewise,
  whole along T. All else is whole on every device.

  Args:
    state: arrays, or their shapes.
    params: from `partitions`.
    shapes: the parameters' tree.
    mesh: of the shardings.
  """
  known = {path: (tuple(x.shape), params[path]) for path, x in tree.flatten(shapes).items()}

  def of(path: str, leaf: Any) -> NamedSharding:
    parts = path.split('/')
    for start in range(len(parts)):
      shape, spec = known.get('/'.join(parts[start:]), (None, None))
      if shape is not None and tuple(leaf.shape) == shape:
        return NamedSharding(mesh, spec)
      if shape is not None and tuple(leaf.shape[1:]) == shape:
        return NamedSharding(mesh, PartitionSpec(None, *spec))
    return NamedSharding(mesh, PartitionSpec())

  return tree.map_with_path(of, state)


def describe(params: Any, specs: Mapping[str, PartitionSpec], mesh: Mesh) -> str:
  """The table printed at start: parameter, shape, partition, bytes a device."""
  rows = [('parameter', 'shape', 'split over', 'bytes a device')]
  total = 0
  for path, x in tree.flatten(params).items():
    held = _bytes(x) // math.prod(mesh.shape[axis] for axis in _axes(specs[path]))
    total += held
    rows.append((path, 'x'.join(map(str, x.shape)) or '1', ', '.join(str(axis or '-') for axis in specs[path]) or '-',
                 f'{held:,}'))
  rows.append(('all', '', '', f'{total:,}'))
  return tree.align(rows)


def _partition(path: str, shape: Sequence[int], mesh: Mesh, rules) -> PartitionSpec:
  for pattern, partition in rules:
    if re.search(pattern, path):
      return _fitted(path, shape, mesh, partition, pattern)
  for pattern, partition in DEFAULT_RULES:
    if re.search(pattern, path) and (partition == AUTO or len(partition) <= len(shape)):
      return _fitted(path, shape, mesh, partition, None)
  raise AssertionError('the last default rule matches everything')


def _fitted(path: str, shape: Sequence[int], mesh: Mesh, partition: Partition, pattern: str | None) -> PartitionSpec:
  """The partition as it fits the shape; of a user's rule (`pattern`) what does not fit is an error."""
  if partition == AUTO:
    size = mesh.shape['fsdp']
    fitting = [i for i, length in enumerate(shape) if length % size == 0 and length >= size]
    if size == 1 or not fitting:
      return PartitionSpec()
    chosen = max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*('fsdp' if i == chosen else None for i in range(chosen + 1)))
  if len(partition) > len(shape):
    raise ValueError(f"The sharding rule {pattern!r} has {len(partition)} axes, but '{path}' has shape {list(shape)}.")
  axes = []
  for i, axis in enumerate(partition):
    size = 1 if axis is None else mesh.shape[axis]
    if shape[i] % size and pattern is not None:
      raise ValueError(f"The sharding rule {pattern!r} splits axis {i} of '{path}', {shape[i]} long, over the {size} "
                       f"devices of '{axis}', which do not divide it.")
    axes.append(axis if size > 1 and shape[i] % size == 0 else None)
  while axes and axes[-1] is None:
    axes.pop()
  return PartitionSpec(*axes)


def _check_rule(pattern: str, partition: Partition) -> None:
  try:
    re.compile(pattern)
  except re.error as error:
    raise ValueError(f'The sharding rule {pattern!r} is no regular expression: {error}.') from error
  if partition == AUTO:
    return
  named = [axis for axis in partition if axis is not None]
  if isinstance(partition, str) or any(axis not in AXES for axis in named) or len(set(named)) < len(named):
    raise ValueError(f"The sharding rule {pattern!r} must give '{AUTO}' or, for each axis, a different one of {AXES} "
                     f'or None; got {partition!r}.')


def _axes(spec: PartitionSpec) -> list[str]:
  return [axis for axis in spec if axis is not None]


def _bytes(x: Any) -> int:
  return math.prod(x.shape) * jax.dtypes.canonicalize_dtype(x.dtype).itemsize
