"""A table's row as a vector: embedded categories, numbers that may be missing, then layers.

Guo & Berkhahn, "Entity Embeddings of Categorical Variables", 2016, https://arxiv.org/abs/1604.06737; for missing values
the indicator beside the filled column: Little & Rubin, "Statistical Analysis with Missing Data", 1987, section 4.

    z = [E[c_1]; …; E[c_F]; x~; m],   x~_n = (x_n - mean_n) / std_n where known, else fill_n;   m_n = 1 where missing
    pooled = mlp(z)

Shapes: B rows, F categorical columns of codes, N numeric columns, W numbers an embedding, V rows of the table E.
A value that is not there never passes unseen: NaN in a column where `missing` is None, and a code outside its range,
make the row's features NaN (compiled code cannot raise), which stops a training run.
"""
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.mlp import MLP
from mtjax.encoders.stack import check_remat


class Tabular(nn.Module):
  """{'categorical': int [B, F], 'numeric': [B, N]} -> pooled [B, widths[-1]] float32.

  Either may be absent; an array alone is numeric. Where missing is not None, '<column>_mask' (bool, True = known) may
  stand beside a numeric column; without it, NaN is what is missing.
  Parameters: embed/embedding [V, W], fill [N] (with missing='learned'), mlp/{fc1, fc2, …}.

  Attributes:
    codes: V, where all columns share one range of codes; or one number a column, whose codes 0 … codes[f] - 1 have rows
      of their own, V = sum of codes; () = no categories.
    embed_width: W.
    widths: outputs of each layer behind.
    missing: None = no number is missing; 'zero' = fill_n is 0; 'learned' = fill_n is a parameter, 0 at first. With both
      m is part of z.
    categorical: names of the inputs that hold codes; they are put side by side.
    numeric: names of the inputs that hold numbers (integers and bools become floats), put side by side.
    mean: of each numeric column, where it is to be standardised; () = 0.
    std: of each numeric column; () = 1.
    activation: as in `MLP`.
    dropout_rate: after each activation, in training.
    remat: compute a layer's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the matrix products.

  Example:
    >>> encoder = Tabular(codes=(3, 2), missing='zero', widths=(4,))
    >>> rows = {'categorical': jnp.array([[2, 1]]), 'numeric': jnp.array([[0.5, jnp.nan]])}
    >>> params = encoder.init(jax.random.key(0), rows)['params']
    >>> params['embed']['embedding'].shape, params['mlp']['fc1']['kernel'].shape     # 2 x 4 + 2 + 2
    ((5, 4), (12, 4))
  """
  codes: int | Sequence[int] = ()
  embed_width: int = 4
  widths: Sequence[int] = (128, 64)
  missing: str | None = None
  categorical: Sequence[str] = ('categorical',)
  numeric: Sequence[str] = ('numeric',)
  mean: Sequence[float] = ()
  std: Sequence[float] = ()
  activation: str = 'relu'
  dropout_rate: float = 0.0
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'embed_width', 'widths', *(('codes',) if self.codes != () and self.codes != [] else ()))
    _checks.choice(self, 'missing', (None, 'zero', 'learned'))
    _checks.rate(self)
    check_remat(self)
    for field in ('codes', 'categorical', 'numeric', 'mean', 'std'):
      value = getattr(self, field)
      if isinstance(value, str):
        raise ValueError(f'Tabular has {field}={value!r}; allowed is a sequence.')
      object.__setattr__(self, field, tuple(value) if isinstance(value, Sequence) else value)
    if not all(isinstance(x, numbers.Real) and math.isfinite(x) for x in self.mean):
      raise ValueError(f'Tabular has mean={self.mean}; allowed are finite numbers.')
    if not all(isinstance(x, numbers.Real) and 0 < x < math.inf for x in self.std):
      raise ValueError(f'Tabular has std={self.std}; allowed are finite numbers > 0.')

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array] | jax.Array, *, ctx: Ctx | None = None,
               train: bool = False) -> Features:
    inputs = self._named(inputs)
    parts = []
    if self.codes != ():
      codes = jnp.concatenate([self._codes(name, inputs[name]) for name in self.categorical], axis=1)
      x = nn.Embed(self._table_size, self.embed_width, name='embed')(self._rows(codes))
      parts.append(x.reshape(len(x), -1))
    numeric = [name for name in self.numeric if name in inputs]
    if numeric:
      x = jnp.concatenate([self._numbers(name, inputs[name]) for name in numeric], axis=1)
      known = jnp.concatenate([jnp.asarray(inputs[f'{name}_mask'], bool) if f'{name}_mask' in inputs
                               else ~jnp.isnan(self._numbers(name, inputs[name])) for name in numeric], axis=1)
      parts += self._fill(self._standardise(x), known)
    mlp = MLP(self.widths, self.dropout_rate, self.activation, self.remat, self.dtype, name='mlp')
    return mlp(jnp.concatenate(parts, axis=1), ctx=ctx, train=train)

  @property
  def _table_size(self) -> int:
    return self.codes if isinstance(self.codes, int) else sum(self.codes)

  def _named(self, inputs: Any) -> Mapping[str, Any]:
    """The inputs by name, checked: what is absent, and what has no use."""
    if not isinstance(inputs, Mapping):
      inputs = {self.numeric[0] if self.numeric else 'the array': inputs}
    wanted = self.categorical if self.codes != () else ()
    absent = [name for name in wanted if name not in inputs]
    if self.numeric != ('numeric',):                     # named one by one: all are meant
      absent += [name for name in self.numeric if name not in inputs]
    masks = [f'{name}_mask' for name in self.numeric] if self.missing else []
    unused = [name for name in inputs if name not in (*wanted, *self.numeric, *masks)]
    if absent or unused or not any(name in inputs for name in (*wanted, *self.numeric)):
      raise ValueError(f'Tabular (codes={self.codes}, categorical={self.categorical}, numeric={self.numeric}, '
                       f'missing={self.missing!r}) got the inputs {", ".join(inputs) or "none"}. '
                       f'Absent: {", ".join(absent) or "none"}. Without a use: {", ".join(unused) or "none"}.')
    for name in inputs:
      if jnp.ndim(inputs[name]) != 2:
        raise ValueError(f"Tabular reads columns [B, N], but '{name}' has shape {list(jnp.shape(inputs[name]))}.")
      if name in masks and jnp.shape(inputs[name]) != jnp.shape(inputs[name.removesuffix('_mask')]):
        raise ValueError(f"Tabular has '{name}' of shape {list(jnp.shape(inputs[name]))}, which is not that of its "
                         f'column, {list(jnp.shape(inputs[name.removesuffix("_mask")]))}.')
    return inputs

  def _codes(self, name: str, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
      raise TypeError(f"Tabular reads codes, but '{name}' has dtype {x.dtype}; allowed are integers.")
    return x.astype(jnp.int32)

  def _rows(self, codes: jax.Array) -> jax.Array:
    """Codes [B, F] -> rows of the table; a code outside its range becomes V, which is no row."""
    if isinstance(self.codes, int):
      limit, start = self.codes, 0
    else:
      if len(self.codes) != codes.shape[1]:
        raise ValueError(f'Tabular has codes={self.codes}, {len(self.codes)} columns, but the input has '
                         f'{codes.shape[1]}.')
      limit, start = np.array(self.codes, np.int32)[None], np.cumsum((0, *self.codes[:-1]), dtype=np.int32)[None]
    return jnp.where((codes >= 0) & (codes < limit), codes + start, self._table_size)

  def _numbers(self, name: str, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.number) and x.dtype != bool:
      raise TypeError(f"Tabular reads numbers, but '{name}' has dtype {x.dtype}.")
    return x.astype(jnp.float32)

  def _standardise(self, x: jax.Array) -> jax.Array:
    for field in ('mean', 'std'):
      if getattr(self, field) and len(getattr(self, field)) != x.shape[1]:
        raise ValueError(f'Tabular has {len(getattr(self, field))} numbers in {field}, but the input has '
                         f'{x.shape[1]} numeric columns.')
    x = x - np.array(self.mean, np.float32)[None] if self.mean else x
    return x / np.array(self.std, np.float32)[None] if self.std else x

  def _fill(self, x: jax.Array, known: jax.Array) -> list[jax.Array]:
    """[x~, m], each [B, N]; [x] where nothing is missing."""
    if self.missing is None:
      return [x]
    fill = jnp.zeros(x.shape[1])
    if self.missing == 'learned':
      fill = self.param('fill', nn.initializers.zeros, (x.shape[1],))
    return [jnp.where(known, x, fill[None]), (~known).astype(jnp.float32)]
