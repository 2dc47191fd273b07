"""Cross-entropies of rare pixels: edges, and whatever else is far from half of the image (saliency).

    loss_b = mean over the valid pixels of  -w y log p - (1 - w) (1 - y) log(1 - p),      p = sigmoid(outputs)

`edge_xent`: w is fixed; 0.95 in Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019,
https://arxiv.org/abs/1904.08918, and multi-task work on edges since.
`balanced_xent`: w is the share of pixels with y = 0 in the image (Xie & Tu, "Holistically-Nested Edge Detection", ICCV
2015, equation 2, https://arxiv.org/abs/1504.06375; there a sum over pixels).
Valid are pixels that the mask allows and whose label is >= 0.
"""
import jax
import jax.numpy as jnp

from mtjax.losses.masking import row_mean, valid_entries


def edge_xent(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None, positive: float = 0.95) -> jax.Array:
  """Cross-entropy with a fixed weight of edges.

  Args:
    outputs: logits [B, H, W].
    label: [B, H, W], 1 = edge, 0 = none (fractions are probabilities), negative = ignored.
    mask: bool [B] or [B, H, W]; None = all.
    positive: w, the weight of an edge; 1 - w is that of any other pixel.

  Returns:
    [B] float32.

  Example:
    >>> print(edge_xent(jnp.zeros((1, 1, 2)), jnp.array([[[1, 0]]])).round(4))      # (0.95 ln 2 + 0.05 ln 2) / 2
    [0.3466]
  """
  if not 0 < positive < 1:
    raise ValueError(f'edge_xent needs 0 < positive < 1, got {positive}.')
  return _weighted(outputs, label, mask, lambda y, valid: positive)


def balanced_xent(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Cross-entropy in which both classes weigh the same in each image; arguments as in `edge_xent`.

  An image of one class has loss 0: there is nothing to tell apart.
  """
  return _weighted(outputs, label, mask, lambda y, valid: row_mean(1 - y, valid).reshape(-1, *[1] * (y.ndim - 1)))


def _weighted(outputs, label, mask, weight) -> jax.Array:
  if outputs.shape != label.shape:
    raise ValueError(f'Outputs have shape {list(outputs.shape)}, but labels {list(label.shape)}; they must agree.')
  valid = valid_entries(label >= 0, mask)
  outputs, y = outputs.astype(jnp.float32), jnp.where(valid, label, 0).astype(jnp.float32)
  w = weight(y, valid)
  losses = w * y * jax.nn.softplus(-outputs) + (1 - w) * (1 - y) * jax.nn.softplus(outputs)
  return row_mean(losses, valid)
