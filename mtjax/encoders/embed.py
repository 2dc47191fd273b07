"""The table of token embeddings.  tokens [...] int -> [..., D]."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.parallel import by_rows, gathered


class Embed(nn.Embed):
  """flax.linen.Embed on a mesh: the table's width is gathered before rows are looked up, and what is looked up lies by
  rows. Left to itself, the compiler carries the split of the width into the activations.
  """

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Looks up; a token outside of the table is NaN."""
    table = gathered(self.embedding).astype(self.dtype or self.param_dtype)
    return by_rows(jnp.take(table, inputs, axis=0))
