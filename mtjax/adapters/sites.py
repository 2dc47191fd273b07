"""Where an adapter sits: kinds of sites, and the facts about a module that was found at one.

    output   y <- f(y, x)         at a module with weights: LoRA, scale and shift, IA3 on keys and values, norms
    wrap     y <- f(y, x)         around a composite module: bottlenecks beside or behind attention and MLP
    input    x <- f(x)            before the module runs: IA3 before an MLP's second layer
    span     y <- f(y, x of an earlier sibling)           where no module holds what the adapter is parallel to
    kv       keys and values get vectors in front         at an attention module: prefixes
    tokens   positions get in front and out again         at the blocks of a stack: prompts

A module is found by `re.search` of `match` in its path, 'block_3/attn/query'. Shapes: B rows, D in, O out; a module
may contract or produce several axes (`nn.DenseGeneral`), which are flattened for an adapter.
"""
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from mtjax.config import did_you_mean

KINDS = ('output', 'wrap', 'input', 'span', 'kv', 'tokens')


@dataclasses.dataclass(frozen=True)
class Where:
  """Which modules a rule is for.

  Attributes:
    kind: one of `KINDS`.
    match: regular expression over module paths.
    start: of a span, the expression of the sibling whose input is captured.
  """
  kind: str
  match: str
  start: str | None = None

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'A rule has site={self.kind!r}. {did_you_mean(self.kind, KINDS)}')
    for field in ('match', 'start'):
      pattern = getattr(self, field)
      if pattern is None and field == 'start':
        continue
      try:
        re.compile(pattern)
      except (re.error, TypeError) as error:
        raise ValueError(f'A rule has {field}={pattern!r}, no regular expression: {error}.') from error
    if (self.kind == 'span') != (self.start is not None):
      raise ValueError(f'A rule at site={self.kind!r} has start={self.start!r}; a span, and no other site, has one.')

  def finds(self, path: str) -> bool:
    """Whether the module at `path` is meant."""
    return re.search(self.match, path) is not None


def output(match: str) -> Where:
  """The output of modules with weights."""
  return Where('output', match)


def wrap(match: str) -> Where:
  """Around composite modules."""
  return Where('wrap', match)


def input(match: str) -> Where:
  """The input of modules."""
  return Where('input', match)


def span(start: str, end: str) -> Where:
  """From the input of the module `start` to the output of its later sibling `end`."""
  return Where('span', end, start)


def kv(match: str) -> Where:
  """The keys and values of attention modules."""
  return Where('kv', match)


def tokens(match: str) -> Where:
  """The token positions of the blocks of a stack."""
  return Where('tokens', match)


@dataclasses.dataclass(frozen=True)
class Site:
  """One module that a rule found.

  Attributes:
    path: of the module.
    kind: of the site.
    params: the module's own parameters, without adapters.
    in_shape: the axes of its input that it reads as features: (D,), or (H, K) of a module that contracts two.
    out_shape: those that it produces; at a kv site (G, K), the key heads.
    run: (own parameters, x) -> the module's output; no state, no randomness.
  """
  path: str
  kind: str
  params: Mapping[str, Any]
  in_shape: tuple[int, ...]
  out_shape: tuple[int, ...]
  run: Callable[[Any, jax.Array], jax.Array] | None = None

  @property
  def d_in(self) -> int:
    """D, the size of the flattened input features."""
    return math.prod(self.in_shape)

  @property
  def d_out(self) -> int:
    """O, the size of the flattened output features."""
    return math.prod(self.out_shape)

  @property
  def is_dense(self) -> bool:
    """Whether the module is y = x W (+ b), W [*in_shape, *out_shape]."""
    kernel = self.params.get('kernel')
    return kernel is not None and tuple(kernel.shape) == (*self.in_shape, *self.out_shape)

  def flat_in(self, x: jax.Array) -> jax.Array:
    """[..., *in_shape] -> [..., D]."""
    return x.reshape(*x.shape[:x.ndim - len(self.in_shape)], self.d_in)

  def flat_out(self, y: jax.Array) -> jax.Array:
    """[..., *out_shape] -> [..., O]."""
    return y.reshape(*y.shape[:y.ndim - len(self.out_shape)], self.d_out)

  def like_out(self, y: jax.Array) -> jax.Array:
    """[..., O] -> [..., *out_shape]."""
    return y.reshape(*y.shape[:-1], *self.out_shape)

  def kernel(self) -> jax.Array:
    """[D, O], of a dense module."""
    return self.params['kernel'].reshape(self.d_in, self.d_out)

  def shapes(self) -> 'Site':
    """The same with shapes in place of arrays."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(self.params))
    return dataclasses.replace(self, params=params, run=None)


def site_of(module: nn.Module, kind: str, own: Mapping[str, Any], x: jax.Array, y: jax.Array | None) -> Site:
  """The facts about a module called on x (its output y is needed where the module is not one of Linen's own)."""
  path = '/'.join(module.path)
  if kind == 'kv':
    key = own.get('key', {})
    if 'kernel' not in key:
      raise ValueError(f"A rule with site='kv' found {path!r}, which has no submodule 'key' with a kernel; it must "
                       f'find attention modules.')
    return Site(path, kind, own, (x.shape[-1],), tuple(key['kernel'].shape[1:]))
  if isinstance(module, nn.DenseGeneral):
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    if module.batch_dims or sorted(axis % x.ndim for axis in axes) != list(range(x.ndim - len(axes), x.ndim)):
      raise ValueError(f'A rule found {path!r}, a DenseGeneral with axis={module.axis} and '
                       f'batch_dims={module.batch_dims}; allowed is one that contracts the last axes.')
    features = (module.features,) if isinstance(module.features, int) else tuple(module.features)
    in_shape, out_shape = x.shape[x.ndim - len(axes):], features
  elif isinstance(module, nn.Embed):
    in_shape, out_shape = (), (module.features,)
  else:
    in_shape, out_shape = x.shape[-1:], x.shape[-1:] if y is None else y.shape[-1:]

  if kind == 'span':  # x went into an earlier module
    in_shape = x.shape[-1:]

  def run(params, x):
    return module.clone(parent=None, name=None).apply({'params': params}, x)

  return Site(path, kind, own, tuple(in_shape), tuple(out_shape), run)


def along(v: jax.Array, x: jax.Array) -> jax.Array:
  """v [O] -> what multiplies x [..., O] feature by feature."""
  return v.reshape((1,) * (x.ndim - 1) + v.shape)
