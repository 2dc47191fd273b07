"""The error of surface normals: one minus the cosine of the angle.

    loss_b = mean over the valid pixels of  1 - n^ . n / (|n^| |n|)

Eigen & Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional
Architecture", ICCV 2015, equation 2, https://arxiv.org/abs/1411.4734.
Valid are pixels that the mask allows and whose normal has a length > 0. Differs from the paper: plus 1, so that it is 0
when all is right.
"""
import jax
import jax.numpy as jnp

from mtjax.losses.masking import row_mean, valid_entries


def normal_cosine(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """The mean of 1 - cos over valid pixels.

  Args:
    outputs: [B, H, W, 3], of any length (one of length 0 has cosine 0).
    label: [B, H, W, 3], of any length; 0 = no normal.
    mask: bool [B], [B, H, W] or [B, H, W, 3]; None = all.

  Returns:
    [B] float32.

  Example:
    >>> said, true = jnp.array([[[[2.0, 0, 0], [0, 3.0, 0]]]]), jnp.array([[[[1.0, 0, 0], [0, 0, 1.0]]]])
    >>> print(normal_cosine(said, true))                              # 0 and 90 degrees: (0 + 1) / 2
    [0.5]
  """
  if outputs.shape != label.shape or outputs.shape[-1] != 3:
    raise ValueError(f'Outputs have shape {list(outputs.shape)}, but labels {list(label.shape)}; both must be '
                     f'[B, H, W, 3].')
  said, true = _unit(outputs), _unit(label)
  return row_mean(1 - jnp.sum(said * true, axis=-1), valid_entries(jnp.any(label != 0, axis=-1), mask))


def _unit(x: jax.Array) -> jax.Array:
  """Of length 1, in float32; a vector of length 0 stays, with gradient 0."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
