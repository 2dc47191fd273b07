"""Activations lie by rows: axis 0 over `data` and `fsdp`, the rest whole.

The compiler would else split them as the parameters are: behind an embedding that is split along its width over `fsdp`
it keeps that split through the whole network, and every matrix product sums over all devices. So encoders say at the
border of each layer how activations lie; inside of a layer `tensor` splits heads and hidden units, since parameters do.

On which mesh, `on` says, while a function is traced; `jax.set_mesh` does too. Without a mesh nothing happens.
"""
import contextlib
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from mtjax.parallel.mesh import AXES, BATCH_AXES


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
  """While it lasts, in traced code, `by_rows` speaks of this mesh; None = of the one that there is, if any."""
  return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def by_rows(x: Any, *, last: bool = True) -> Any:
  """A tree of arrays [B, …], the same, B split over the mesh's `data` and `fsdp`.

  Args:
    x: arrays whose B does not divide (of one row, while shapes are found out) stay as they are.
    last: whether the last axis is whole; else the compiler may split it (a vocabulary, over `tensor`).
  """
  axes, parts = _auto(BATCH_AXES)

  def place(leaf):
    if leaf.ndim and leaf.shape[0] % parts == 0:
      rest = [None] * (leaf.ndim - 2) + [None if last else PartitionSpec.UNCONSTRAINED] * (leaf.ndim > 1)
      return jax.lax.with_sharding_constraint(leaf, PartitionSpec(axes, *rest))
    return leaf

  return jax.tree.map(place, x) if axes else x


def gathered(table: jax.Array) -> jax.Array:
  """A table [V, D], its D whole, as rows are looked up in it. Its V may stay split over `tensor`."""
  axes, _ = _auto(AXES)
  return jax.lax.with_sharding_constraint(table, PartitionSpec(PartitionSpec.UNCONSTRAINED)) if axes else table


def _auto(wanted: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
  """(those of the axes that the mesh has and the compiler deals with, over how many devices they go)."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size == 1:
    return (), 1
  axes = tuple(axis for axis, kind in zip(mesh.axis_names, mesh.axis_types) if axis in wanted and kind == AxisType.Auto)
  return axes, math.prod(mesh.shape[axis] for axis in axes)
