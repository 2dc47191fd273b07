"""Contrastive losses on a matrix of similarities of the rows of a batch.

`info_nce`: van den Oord et al., 2018, https://arxiv.org/abs/1807.03748; with both directions as in Radford et al.,
"Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, https://arxiv.org/abs/2103.00020.
`sup_con`: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2, https://arxiv.org/abs/2004.11362.

    info_nce_i = -(log p(P_i | i) + log p'(P_i | i)) / 2,      p(j | i) = softmax_j(s_ij),   p'(j | i) = softmax_j(s_ji)
    sup_con_i = -mean_{j in P_i} log p(j | i)                  without j = i

s: [B, B], similarities over the temperature; row i is of the first tower, column j of the second (`sup_con`: both are
the same). P_i: the rows with the label of i; p(P | i) is the sum of its probabilities, so that two pictures of one text
are no negatives of each other (with distinct labels it is the usual loss).
Labels are group numbers >= 1. A label of 0 is a row that is not there (what masked labels become): it has loss 0 and is
nobody's negative; so is one whose mask is False.
"""
import jax
import jax.numpy as jnp


def info_nce(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """The two-tower loss, both directions.

  Args:
    outputs: similarities over the temperature, [B, B].
    label: int [B], rows and columns with the same number belong together; 0 = not there.
    mask: bool [B]; None = all.

  Returns:
    [B] float32.

  Example:
    >>> similar = jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]]))         # row 0: 3/4 and, down the column, 3/4
    >>> print(info_nce(similar, jnp.array([1, 2])).round(4))           # row 1: 1/2 and 1/2
    [0.2877 0.6931]
  """
  outputs, there = _checked(outputs, label, mask, 'info_nce')
  positive = (label[:, None] == label[None]) & there[:, None] & there[None]
  loss = [jax.nn.logsumexp(jnp.where(there[None], s, -1e9), axis=1) - jax.nn.logsumexp(
    jnp.where(positive, s, -1e9), axis=1) for s in (outputs, outputs.T)]
  return jnp.where(there, (loss[0] + loss[1]) / 2, 0.0)


def sup_con(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """The loss of one tower, whose rows with the same label are to be alike; arguments as in `info_nce`.

  A row without another of its label has loss 0.
  """
  outputs, there = _checked(outputs, label, mask, 'sup_con')
  others = there[:, None] & there[None] & ~jnp.eye(len(label), dtype=bool)
  positive = (label[:, None] == label[None]) & others
  log_p = outputs - jax.nn.logsumexp(jnp.where(others, outputs, -1e9), axis=1, keepdims=True)
  count = positive.sum(axis=1)
  return -jnp.where(count > 0, jnp.where(positive, log_p, 0.0).sum(axis=1) / jnp.maximum(count, 1), 0.0)


def _checked(outputs, label, mask, name) -> tuple[jax.Array, jax.Array]:
  """(similarities float32, which rows are there)."""
  if label.ndim != 1 or outputs.shape != (len(label), len(label)):
    raise ValueError(f'{name} reads similarities [B, B] and labels [B], but they have shapes {list(outputs.shape)} and '
                     f'{list(label.shape)}.')
  there = label > 0 if mask is None else (label > 0) & mask
  return outputs.astype(jnp.float32), there
