"""RotoGrad's rotations: a head that reads its features turned by an orthogonal matrix of its own.

Javaloy & Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, Algorithm 1,
https://arxiv.org/abs/2103.02631.

    z_t = R_t z,   R_t = cayley(A_t) [m, m] on the leading m of D features,   A_t = 0 at first

To the task's loss R_t is a constant: the trunk gets R_t^T dl_t/dz_t, the head its own gradient, A_t none. What A_t is
trained by is the loss of the rotation alone, which compares dl_t/dz_t with the mean over all tasks: it is known once
every head's gradient is, so it is put in afterwards by `with_rotation_gradients`.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.context import Features
from mtjax.heads._base import Head
from mtjax.optim.aggregators.rotograd import cayley, rotate, rotation_gradients

PARAMETER = 'rotation'


class Rotated(nn.Module):
  """A head behind a rotation of features.pooled [B, D]. Outputs, kind, loss, metrics and labels are the head's.

  Parameters: 'rotation' [size, size] float32 (A_t) beside those of the head, whose names stay what they are without it.

  Attributes:
    head: the head that reads the turned features.
    size: m, how many leading features are turned, 1 <= m <= D.
  """
  head: Head
  size: int

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
      raise ValueError(f'Rotated has size={self.size!r}; allowed is an integer >= 1.')

  def setup(self):
    nn.share_scope(self, self.head)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    x = features.need('pooled', by='Rotated').pooled
    if self.size > x.shape[-1]:
      raise ValueError(f'Rotated has size={self.size}, but there are {x.shape[-1]} features to turn.')
    a = self.param(PARAMETER, nn.initializers.zeros, (self.size, self.size), jnp.float32)
    pooled = rotate(jax.lax.stop_gradient(cayley(a)), x)
    return self.head(features.replace(pooled=pooled), batch, train=train)

  @property
  def kind(self) -> str:
    return self.head.kind

  @property
  def default_loss(self) -> str:
    return self.head.default_loss

  @property
  def default_metrics(self) -> tuple[str, ...]:
    return self.head.default_metrics

  def check_label(self, label: np.ndarray, name: str) -> None:
    self.head.check_label(label, name)


def with_rotation_gradients(grads: Mapping[str, Any], params: Mapping[str, Any], tasks: Sequence[str],
                            cotangents: jax.Array, update: jax.Array,
                            active: jax.Array | None = None) -> dict[str, Any]:
  """Gradients of the heads, those of the rotations being of the rotation losses.

  Args:
    grads: {task: gradient of its head}.
    params: {task: parameters of its head}; all are `Rotated` with the same size.
    tasks: their names in the order of the T rows (that of a dict is lost under jit).
    cotangents: u [T, B, D], the gradient of each task's loss at the shared features.
    update: d_z [B, D], what `mtjax.optim.rotograd` made of them.
    active: [T] bool, the tasks that take part.

  Returns: grads, with the leaf 'rotation' of each head replaced.
  """
  a = jnp.stack([params[task][PARAMETER] for task in tasks])
  gradients = rotation_gradients(a, cotangents, update, active)
  return {task: {**grads[task], PARAMETER: gradients[i]} for i, task in enumerate(tasks)}
