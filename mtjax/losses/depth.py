"""The error of depth maps: absolute, over the pixels whose depth is known.

    loss_b = mean over the valid pixels of  |outputs - label|

Valid are pixels that the mask allows and whose depth is finite and > 0: sensors write 0 where they see nothing.
As in Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016, and most multi-task work on NYUv2 since.
"""
import jax
import jax.numpy as jnp

from mtjax.losses.masking import row_mean, valid_entries


def depth_l1(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """The mean absolute error over valid pixels: outputs and label [B, H, W], mask bool [B] or [B, H, W] -> [B] float32.

  Example:
    >>> print(depth_l1(jnp.array([[[1.0, 5.0, 9.0]]]), jnp.array([[[2.0, 3.0, 0.0]]])))      # (1 + 2) / 2
    [1.5]
  """
  if outputs.shape != label.shape:
    raise ValueError(f'Outputs have shape {list(outputs.shape)}, but labels {list(label.shape)}; they must agree.')
  valid = valid_entries((label > 0) & jnp.isfinite(label), mask)
  error = outputs.astype(jnp.float32) - jnp.where(valid, label, 0.0).astype(jnp.float32)
  return row_mean(jnp.abs(error), valid)
