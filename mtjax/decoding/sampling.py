"""Drawing the next token: temperature, the k most probable tokens, the nucleus.

Fan, Lewis & Dauphin, "Hierarchical Neural Story Generation", ACL 2018, https://arxiv.org/abs/1805.04833 (top k);
Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020, https://arxiv.org/abs/1904.09751 (nucleus).

    p = softmax(logits / temperature), of the k largest logits alone
    with p sorted, p_(1) >= p_(2) >= …, a token is kept if p_(1) + … + p_(i - 1) < top_p; the first always is

What is kept is drawn from in proportion to p. Equal logits are ranked by their ids, so that k = 1, or top_p -> 0, is
the argmax.
"""
import jax
import jax.numpy as jnp


def sample(keys: jax.Array, logits: jax.Array, *, temperature: jax.Array | float = 1.0, top_k: int | None = None,
           top_p: jax.Array | float | None = None) -> jax.Array:
  """logits [B, V] -> tokens [B] int32.

  Args:
    keys: [B] random keys, one a row, so that a row's draw doesn't depend on the others.
    logits: [B, V].
    temperature: > 0.
    top_k: how many tokens are kept; None = all.
    top_p: the least mass that is kept, in (0, 1]; None = all.

  Example:
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> print(sample(keys, jnp.array([[0.0, 5.0, 1.0], [2.0, 0.0, 1.0]]), top_k=1))
    [1 0]
  """
  x = logits.astype(jnp.float32) / temperature
  draw = jax.vmap(jax.random.categorical)
  if top_k is None and top_p is None:
    return draw(keys, x).astype(jnp.int32)
  x, ids = jax.lax.top_k(x, x.shape[-1] if top_k is None else min(top_k, x.shape[-1]))
  if top_p is not None:
    p = jax.nn.softmax(x)
    before = jnp.cumsum(p, axis=-1) - p
    x = jnp.where((before < top_p).at[:, 0].set(True), x, -jnp.inf)
  return jnp.take_along_axis(ids, draw(keys, x)[:, None], axis=1)[:, 0].astype(jnp.int32)
