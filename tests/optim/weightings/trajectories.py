"""Runs a weighting over steps in float64, for comparison with a loop in numpy; and that loop's Adam."""
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.optim import Info


def follow(tx, losses, after=None, **steps):
  """(weights [S, T], the method's own state after each step) of losses [S, T] and whatever else an Info holds, [S, ...]."""
  with jax.enable_x64(True):
    steps = dict(losses=jnp.asarray(losses, float), after=after, **steps)
    steps = {name: jnp.asarray(x) for name, x in steps.items() if x is not None}

    def step(state, xs):
      after = xs.pop('after', None)
      w, state = tx.weights(state, Info(**xs))
      if after is not None:
        state = tx.observe(state, after)
      return state, (w, state.inner)

    state = tx.init({'w': jnp.zeros(1)}, num_tasks=len(losses[0]))
    _, (w, states) = jax.jit(lambda state, steps: jax.lax.scan(step, state, steps))(state, steps)
    return np.asarray(w), jax.tree.map(np.asarray, states)


class Adam:
  """x -= lr m_hat / (sqrt(v_hat) + eps)."""

  def __init__(self, lr, eps=1e-8):
    self.lr, self.eps, self.m, self.v, self.k = lr, eps, 0, 0, 0

  def __call__(self, gradient):
    self.k += 1
    self.m, self.v = 0.9 * self.m + 0.1 * gradient, 0.999 * self.v + 0.001 * gradient ** 2
    m, v = self.m / (1 - 0.9 ** self.k), self.v / (1 - 0.999 ** self.k)
    return -self.lr * m / (np.sqrt(v) + self.eps)


def softmax(x):
  e = np.exp(x - np.max(x))
  return e / e.sum()


def positive(shape, seed=0):
  return np.random.default_rng(seed).uniform(0.3, 3.0, shape)
