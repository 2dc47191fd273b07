"""What a step of a config would need of each device of a mesh that is not there: bytes, traffic over each axis, FLOPs.

Per device, with sizes d, f, t of the axes data, fsdp, tensor:

    state        parameters, gradients, optimizer state (with moving averages and counters): the bytes of each leaf's
                 shard, by the sharding rules of the run; exact
    activations  'compiled': the scratch memory of the step as compiled for virtual CPU devices, less the gradients.
                 Devices along `data` run the same program, so that f t devices and 1/d of the batch say it all.
                 'traced': what the objective's vjp keeps, over d f. Quick, and an upper estimate: a compiler keeps
                 less, and what `tensor` splits is not divided.
    fsdp         3 (f-1)/f P' sent: parameters gathered forward and again backward, gradients reduced and scattered,
                 by rings (a compiler that keeps what it gathered sends a third less); P' is what the axis splits,
                 before that; the gradients of what it leaves whole, P'', are reduced: 2 (f-1)/f P''
    data         2 (d-1)/d G sent: the gradients G that a device holds, reduced by a ring
    tensor       2 (t-1)/t A sent in each of two all-reduces, forward and backward, for each matrix product whose rows
                 are split (attention's and the MLP's output; the table of tokens, summed where they are looked up and,
                 backward, where it makes logits); A = rows x positions x width in the compute type

Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms", 2009, https://doi.org/10.1016/j.jpdc.2008.09.002 (rings);
Rajbhandari et al., "ZeRO", 2020, https://arxiv.org/abs/1910.02054 (fsdp); Shoeybi et al., "Megatron-LM", 2019,
https://arxiv.org/abs/1909.08053 (tensor).

Not covered: the axis `expert`; traffic of what XLA lays out by itself; stages after the first. Methods that look at
several tasks' gradients are known to 'compiled' alone, and their traffic as that of one gradient.
"""
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding

from mtjax import experiment, tree
from mtjax.config import check_keys, to_dict
from mtjax.parallel import AXES, batch_sharding, partitions, shardings
from mtjax.training import flops

ROW_SPLIT = (r'(attn|cross)/out/kernel$', r'mlp/fc2/kernel$', r'embed/embedding$')


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Of one step.

  Attributes:
    mesh: {axis: size}.
    rows: of the batch, over all devices.
    positions: tokens a row, as the encoder gives them out; 1 where it gives none.
    parameters: their number.
    params, gradients, optimizer, activations, batch: bytes of a device.
    used: bytes of the parameters that a device computes with, gathered over `fsdp`.
    sent: {axis: bytes that a device sends}.
    flops: on all devices together.
    device_flops: on one: more than its share where an axis leaves work whole.
    narrow: whether most products are of 16 bits.
  """

  mesh: Mapping[str, int]
  rows: int
  positions: int
  parameters: int
  params: int
  gradients: int
  optimizer: int
  activations: int
  batch: int
  used: float
  sent: Mapping[str, float]
  flops: float
  device_flops: float
  narrow: bool

  @property
  def devices(self) -> int:
    """Of the mesh."""
    return math.prod(self.mesh.values())

  @property
  def memory(self) -> int:
    """Bytes of a device, together."""
    return self.params + self.gradients + self.optimizer + self.activations + self.batch


def footprint(config: Any, mesh: Mapping[str, int], activations: str = 'compiled') -> Footprint:
  """What the first stage of a config needs on a mesh.

  Args:
    config: a run's; its own `mesh` is not looked at, its batch size is that of the whole mesh.
    mesh: {axis: size}; an axis left out has size 1.
    activations: 'compiled' (on fsdp x tensor devices, virtual ones say) or 'traced'.

  Raises:
    ValueError: a mesh or a config that is not covered.
  """
  mesh = _checked(mesh)
  if activations not in ('compiled', 'traced'):
    raise ValueError(f"'activations' must be 'compiled' or 'traced', got {activations!r}.")
  compiled = activations == 'compiled'
  run = experiment.build(_reduced(to_dict(config), mesh, compiled))
  stage, state = run.stages[0], run.abstract_state()
  times = mesh['data'] if compiled else 1  # how many batches of `run` make that of the whole mesh
  rows = {name: stream.batch_size * times for name, stream in stage.streams.items()}
  parts = mesh['data'] * mesh['fsdp']
  if uneven := [name for name, number in rows.items() if number % parts]:
    raise ValueError(f"The batch of stream '{uneven[0]}' has {rows[uneven[0]]} rows, which is not a multiple of "
                     f'data x fsdp = {parts}.')
  if not compiled and stage.engine is not None:
    raise ValueError("'traced' knows the plain sum of the losses alone, but the config has an aggregator; "
                     "use activations='compiled'.")

  # --- the state
  full = AbstractMesh(tuple(mesh.values()), AXES)
  rules = [(pattern, axes if isinstance(axes, str) else tuple(axes)) for pattern, axes in run.config['sharding']]
  specs = partitions(state.params, full, rules)
  placed = shardings(state, specs, state.params, full)
  everything, params = (sum(jax.tree.leaves(jax.tree.map(_shard_bytes, part, where)))
                        for part, where in ((state, placed), (state.params, placed.params)))
  learnt, _ = tree.partition(state.params, stage.trainable)
  gradients = {path: _shard_bytes(x, NamedSharding(full, specs[path])) for path, x in tree.flatten(learnt).items()}

  # --- the step
  example = {name: jax.tree.map(lambda x, n=stream.batch_size: jax.ShapeDtypeStruct(
    (n, *x.shape[1:]), x.dtype, sharding=batch_sharding(run.mesh)), stream.train_batch(0, slice(0, 1)))
    for name, stream in stage.streams.items()}
  traced = stage.update.trace(state, (example, example) if stage.validation else example, stage.rng)
  counted = flops.count(traced.jaxpr)
  device_flops = counted.total * times / math.prod(mesh.values())
  if compiled:
    program = traced.lower().compile()
    held = max(program.memory_analysis().temp_size_in_bytes - sum(gradients.values()), 0)
    device_flops = max(device_flops, (program.cost_analysis() or {}).get('flops', 0.0))
  else:
    held = _residual_bytes(run, example) // parts
  positions, narrow = _positions(run, example), counted.narrow > counted.wide
  tokens = sum(rows.values()) // parts * positions
  sent, used = _traffic(state.params, specs, gradients, mesh, tokens, itemsize=2 if narrow else 4)
  return Footprint(
    mesh=mesh, rows=sum(rows.values()), positions=positions, parameters=tree.count(state.params), params=params,
    gradients=sum(gradients.values()), optimizer=everything - params, activations=held,
    batch=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(example)) * times // parts, used=used, sent=sent,
    flops=counted.total * times, device_flops=device_flops, narrow=narrow)


def _checked(mesh: Mapping[str, int]) -> dict[str, int]:
  check_keys(mesh, AXES, 'mesh')
  for axis, size in mesh.items():
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
      raise ValueError(f"'mesh.{axis}' must be a whole number >= 1, got {size!r}.")
  if mesh.get('expert', 1) > 1:
    raise ValueError(f"'mesh.expert' is {mesh['expert']}, but traffic over it is not modelled; allowed is 1.")
  return {axis: mesh.get(axis, 1) for axis in AXES}


def _reduced(config: dict[str, Any], mesh: Mapping[str, int], compiled: bool) -> dict[str, Any]:
  """The config for the mesh without its data axis, with that share of the batch; traced: for one device."""
  if not compiled:
    return {**config, 'mesh': {'data': 1}}
  needed = mesh['fsdp'] * mesh['tensor']
  if needed > jax.device_count():
    raise ValueError(f"The mesh {dict(mesh)} is compiled for fsdp x tensor = {needed} devices, but there are "
                     f"{jax.device_count()}; use activations='traced'.")
  data = dict(config['data'])
  if 'streams' in data or 'batch_size' not in data or config.get('stages'):
    raise ValueError("'compiled' divides data.batch_size, which the config must have, of one stream and one stage; "
                     "use activations='traced'.")
  if data['batch_size'] % mesh['data']:
    raise ValueError(f"'data.batch_size' is {data['batch_size']}, which is not a multiple of data = {mesh['data']}.")
  return {**config, 'mesh': {**mesh, 'data': 1}, 'data': {**data, 'batch_size': data['batch_size'] // mesh['data']}}


def _shard_bytes(x: Any, where: NamedSharding) -> int:
  return math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize


def _residual_bytes(run: Any, example: Any) -> int:
  """What the backward pass of the plain loss keeps of the whole batch, parameters left out."""
  stage, params = run.stages[0], run.abstract_state().params

  def residuals(params, batch):
    return jax.vjp(lambda p: run.objective(p, batch, stage.rng, 0).total(stage.task_weights), params)[1]

  known = {(x.shape, x.dtype) for x in jax.tree.leaves(params)}
  kept = jax.tree.leaves(jax.eval_shape(residuals, params, example))
  return sum(x.size * x.dtype.itemsize for x in kept if (x.shape, x.dtype) not in known)


def _positions(run: Any, example: Any) -> int:
  """Tokens a row that the encoder gives out, of the longest stream."""
  found = [1]
  for name, columns in example.items():
    features = jax.eval_shape(run.objective.encode, run.abstract_state().params,
                              run.objective.stream_inputs(name, columns))
    found.append(1 if features.tokens is None else features.tokens.shape[1])
  return max(found)


def _traffic(params: Any, specs: Mapping[str, Any], gradients: Mapping[str, int], mesh: Mapping[str, int],
             tokens: int, itemsize: int) -> tuple[dict[str, float], float]:
  """({axis: bytes that a device sends}, bytes of the parameters that it computes with)."""
  ring = {axis: (size - 1) / size for axis, size in mesh.items()}
  sent, used = dict.fromkeys(('data', 'fsdp', 'tensor'), 0.0), 0.0
  for path, x in tree.flatten(params).items():
    axes = [axis for axis in specs[path] if axis is not None]
    whole = x.size * x.dtype.itemsize / (mesh['tensor'] if 'tensor' in axes else 1)
    used += whole
    learnt = path in gradients
    passes = 2 + learnt if 'fsdp' in axes else 2 * learnt
    sent['fsdp'] += passes * ring['fsdp'] * whole
    sent['data'] += 2 * ring['data'] * gradients.get(path, 0)
    if 'tensor' in axes and tree.match(ROW_SPLIT, path):
      sent['tensor'] += 2 * 2 * ring['tensor'] * tokens * x.shape[-1] * itemsize
  return sent, used
