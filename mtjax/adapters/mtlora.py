"""MTLoRA: shared LoRAs in a trunk, and at the end of each stage LoRAs of the tasks, which give a stream a task.

Agiza, Neseem & Reda, "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR 2024,
https://arxiv.org/abs/2403.20320.

    shared stream:   y = f(x) + s B A x            of every adapted layer; it alone goes on to the next stage
    stream of t:     y_t = f(x_t) + s_t B_t A_t x_t         ('matrix'),   + s B A x_t besides  ('matrixv2')

in the last block of each stage, on proj, fc1 and fc2; its attention reads the shared input, so that queries, keys and
values are those of the shared stream. s is a plain factor (4 in the authors' configurations), not divided by the rank.
All tasks are predicted for each image: the task axis is one of streams, not of rows. T tasks, B rows, H x W, C
channels.

Differs from the authors' code: there f reads the shared hidden features in the streams of tasks, too; here a stream is
its own block, f(x_t) of its own x_t, so that a stream is what its LoRAs alone would make of the block. The mode
'addition' is not here. Streams are those of the blocks' outputs, before merging.
"""
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.adapters.bind import join
from mtjax.adapters.intercept import Interceptor
from mtjax.adapters.spec import Spec
from mtjax.config import did_you_mean
from mtjax.context import Ctx

MODES = ('matrix', 'matrixv2')


def mtlora_rules(last: str, *, rank: int = 64, task_rank: int = 4, scale: float = 4.0, dropout_rate: float = 0.05,
                 layers: str = r'(query|key|value|out|fc1|fc2)$', own: str = r'(out|fc1|fc2)$') -> list[dict[str, Any]]:
  """The two rules of MTLoRA: shared LoRAs everywhere, one a task in the last blocks.

  Args:
    last: expression over the paths of the last block of each stage.
    rank: of the shared LoRAs.
    task_rank: of those of tasks.
    scale: s = s_t.
    dropout_rate: of the input of all LoRAs.
    layers: expression over the layers within a block that are adapted.
    own: over those that have LoRAs of tasks, in the last blocks.
  """
  lora = lambda r: dict(name='lora', rank=r, alpha=scale * r, dropout_rate=dropout_rate)
  return [dict(site='output', match=rf'block_\d+/.*{layers}', method=lora(rank), name='shared'),
          dict(site='output', match=rf'{last}/.*{own}', method=lora(task_rank), bank=dict(per='task'), name='own')]


def bind_streams(encoder: nn.Module, spec: Spec, last: str,
                 mode: str = 'matrix') -> Callable[..., tuple[Any, list[Any]]]:
  """`forward(base, state, x, *, train=False, rngs=None, **kwargs) -> (features, streams)`.

  features are those of the shared stream; streams [[T, B, H, W, C], …], the outputs of the blocks that `last` finds, in
  the order in which they run.

  Args:
    encoder: whose blocks are called with their input first; not rematerialised, not scanned.
    spec: rules of one set, which are for the shared stream, and rules a task, which are for the streams; all banks of
      tasks know the same tasks.
    last: expression over the paths of the blocks that have streams.
    mode: 'matrix' or 'matrixv2': whether the shared rules act in the streams, too, where a rule a task is.
  """
  if mode not in MODES:
    raise ValueError(f'bind_streams has mode={mode!r}. {did_you_mean(mode, MODES)}')
  if getattr(encoder, 'remat', False) or getattr(encoder, 'scan', False):
    raise ValueError(f'{type(encoder).__name__} has remat={getattr(encoder, "remat", False)} and '
                     f'scan={getattr(encoder, "scan", False)}; streams leave their blocks on the way, so that '
                     f'allowed is neither.')
  counts = {rule.bank.num_tasks for rule in spec if rule.bank.per == 'task'}
  if len(counts) != 1:
    raise ValueError(f'The rules of tasks have banks of {sorted(map(str, counts))} tasks; allowed is one number, and '
                     f'at least one such rule.')
  tasks = jnp.arange(counts.pop())

  def forward(base: Any, state: Mapping[str, Any], x: Any, *, train: bool = False, rngs: Any = None, **kwargs: Any):
    shared, fixed = state.get('shared', {}), state.get('stats', {}).get('shared', {})
    trunk = _Trunk(spec, shared, fixed, None, train, {})
    streams: list[Any] = []

    def split(next_fn, args, kwargs, context):
      module = context.module
      if trunk.paused or module.scope is None or context.method_name != '__call__' or not _finds(last, module):
        return next_fn(*args, **kwargs)
      y, params, block = next_fn(*args, **kwargs), module.variables['params'], module.clone(parent=None, name=None)
      keys = {name: module.make_rng(name) for name in (rngs or {}) if module.has_rng(name)}

      def stream(task):
        own = _Stream(spec, shared, fixed, Ctx(task_id=task), train, {}, mode=mode)
        with nn.intercept_methods(own):
          return block.apply({'params': params}, *args, rngs=keys, **kwargs)

      trunk.paused = True
      streams.append(jax.vmap(stream)(tasks))
      trunk.paused = False
      return y

    with nn.intercept_methods(split), nn.intercept_methods(trunk):
      extra = {'train': True} if train else {}
      return encoder.apply({'params': join(base, state)}, x, rngs=rngs, **extra, **kwargs), streams

  return forward


class _Trunk(Interceptor):
  """Shared rules alone; nothing while a stream runs."""
  paused = False

  def __call__(self, next_fn, args, kwargs, context):
    return next_fn(*args, **kwargs) if self.paused else super().__call__(next_fn, args, kwargs, context)

  def _active(self, here):
    return [rule for rule in here if rule.bank.per == 'shared']


class _Stream(Interceptor):
  """Rules of tasks, and shared ones where no rule of tasks is ('matrix') or everywhere ('matrixv2')."""

  def __init__(self, *args, mode: str):
    super().__init__(*args)
    self._mode = mode

  def _active(self, here):
    own = [rule for rule in here if rule.bank.per != 'shared']
    return own if own and self._mode == 'matrix' else here


def _finds(pattern: str, module: nn.Module) -> bool:
  return re.search(pattern + '$', '/'.join(module.path)) is not None
