"""L2M: each example picks its adapter out of a pool, by the key that is nearest to what the example looks like.

Schmied et al., "Learning to Modulate pre-trained Models in RL", NeurIPS 2023, https://arxiv.org/abs/2306.14884.

    q_b = masked mean of embedded tokens,   cos_bm = q_b . k_m / (|q_b| |k_m|)
    training after the first task:  winner_b = argmax_m (cos_bm + 1) / 2 v_m,   v_m = (1 / (c_m + 1e-6)) / sum
    evaluation:                     winner_b = argmax_m cos_bm
    loss - weight * mean_b cos_(b, winner_b),     c <- running mean of how often each slot wins

The choice is not differentiable: keys learn from their pull alone, adapters from the loss alone. The pool is a bank
with a set of parameters a slot, and a winner is a row's id:

    winner, pull = choose(query(embedded, mask), keys, penalty)
    y, _ = forward(base, state, x, ctx=Ctx(task_id=winner))          spec with Bank(tasks=M)

B rows, L tokens, D width, M slots. Similarities are float32 whatever the inputs are. `penalty` is made of the counts
when the task changes, and stays until it changes again, while counts go on.
"""
import jax
import jax.numpy as jnp


def query(tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """[B, L, D] -> [B, D] float32: the mean over the tokens that are seen (of a policy: its state tokens).

  Args:
    tokens: of the frozen embedding.
    mask: [B, L] bool; None = all. A row without a token has the query 0.
  """
  tokens = tokens.astype(jnp.float32)
  if mask is None:
    return tokens.mean(axis=1)
  weight = mask[:, :, None].astype(jnp.float32)
  return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def cosines(queries: jax.Array, keys: jax.Array) -> jax.Array:
  """[B, D], [M, D] -> [B, M] float32."""
  unit = lambda x: x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))
  return unit(queries.astype(jnp.float32)) @ unit(keys.astype(jnp.float32)).T


def choose(queries: jax.Array, keys: jax.Array, penalty: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """The slot of each row.

  Args:
    queries: [B, D].
    keys: [M, D].
    penalty: v [M] of `usage_penalty`; None at evaluation and for the first task.

  Returns:
    (winner [B] int32, mean cosine of winners and queries, which training adds to its objective).
  """
  similar = cosines(queries, keys)
  score = similar if penalty is None else (similar + 1) / 2 * penalty[None]
  winner = jnp.argmax(score, axis=1).astype(jnp.int32)
  return winner, jnp.take_along_axis(similar, winner[:, None], axis=1).mean()


def usage_penalty(counts: jax.Array) -> jax.Array:
  """c [M] -> v [M], which adds up to 1 and is largest where a slot was used least."""
  v = 1 / (counts + 1e-6)
  return v / v.sum()


def update_counts(counts: jax.Array, winner: jax.Array, seen: jax.Array) -> jax.Array:
  """The running mean of how often slots win, after a batch more.

  Args:
    counts: [M].
    winner: [B], of `choose`.
    seen: how many batches before this one.
  """
  share = jnp.mean(jax.nn.one_hot(winner, counts.shape[0]), axis=0)
  return counts + (share - counts) / (seen + 1)


def init_keys(key: jax.Array, slots: int, width: int) -> jax.Array:
  """Keys [M, D] ~ U(-1, 1)."""
  if min(slots, width) < 1:
    raise ValueError(f'init_keys got slots={slots} and width={width}; allowed are integers >= 1.')
  return jax.random.uniform(key, (slots, width), minval=-1.0, maxval=1.0)
