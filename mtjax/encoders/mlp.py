"""A multilayer perceptron: the smallest shared trunk ("shared bottom") of a multitask model.

Caruana, "Multitask Learning", Machine Learning 28, 1997, https://doi.org/10.1023/A:1007379606734.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import ACTIVATIONS, as_float_image
from mtjax.encoders.stack import check_remat, rematerialise
from mtjax.parallel import by_rows


class MLP(nn.Module):
  """inputs [B, …] -> pooled [B, widths[-1]] float32; uint8 inputs are scaled by 1/255.

      x <- dropout(activation(W_i x + b_i))   for each width

  Parameters: fc1, fc2, … with kernel [in, width] and bias [width].

  Attributes:
    widths: outputs of each layer.
    dropout_rate: after each activation, in training.
    activation: 'relu', 'gelu', 'silu' or 'tanh'.
    remat: compute a layer's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the matrix products.
  """
  widths: Sequence[int] = (256, 128)
  dropout_rate: float = 0.0
  activation: str = 'relu'
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'widths')
    _checks.rate(self)
    check_remat(self)
    _checks.choice(self, 'activation', list(ACTIVATIONS))

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    if x.ndim < 2:
      raise ValueError(f'MLP reads inputs [B, …], at least one number a row, but the input has shape {list(x.shape)}.')
    x = x.reshape(x.shape[0], -1)

    def layer(dense, x):
      return by_rows(ACTIVATIONS[self.activation](dense(by_rows(x))))

    layer = rematerialise(layer, self.remat)
    for i, width in enumerate(self.widths):
      x = layer(nn.Dense(width, dtype=self.dtype, name=f'fc{i + 1}'), x)
      x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    return Features(pooled=x.astype(jnp.float32))
