"""Activations: values, slopes and their slopes, and that a slope is computed once."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.encoders.activations import ACTIVATIONS

PLAIN = {
  'relu': jax.nn.relu, 'gelu': lambda x: jax.nn.gelu(x, approximate=False), 'silu': jax.nn.silu, 'tanh': jnp.tanh,
  'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
}
X = jnp.concatenate([jnp.linspace(-6, 6, 40), jnp.array([-1e4, -30.0, 0.1, 30.0, 1e4])])
KEPT = ('gelu', 'gelu_tanh', 'silu')


@pytest.mark.parametrize('name', PLAIN)
def test_values_and_derivatives_are_those_of_the_plain_functions(name):
  def all_of(fn):
    slope = jax.grad(fn)
    return jax.jit(jax.vmap(lambda x: (fn(x), slope(x), jax.grad(slope)(x), jax.jvp(fn, (x,), (2.0,))[1])))(X)

  for ours, plain in zip(all_of(ACTIVATIONS[name]), all_of(PLAIN[name])):
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=2e-5)   # in another order; 1 + t cancels at -6


def test_by_hand():
  """At 0 each is x / 2; gelu has P(1) = 0.841345, p(1) = 0.241971."""
  for name in KEPT:
    assert float(jax.grad(ACTIVATIONS[name])(0.0)) == 0.5
  assert float(jax.grad(ACTIVATIONS['gelu'])(1.0)) == pytest.approx(0.841345 + 0.241971, abs=1e-6)


@pytest.mark.parametrize('name', KEPT)
def test_the_slope_is_computed_once_and_stored(name):
  def gradients(w, x):
    return jax.grad(lambda w, x: jnp.sum(jnp.square(ACTIVATIONS[name](x @ w))), argnums=(0, 1))(w, x)

  text = jax.jit(gradients).lower(jnp.ones((16, 8)), jnp.ones((32, 16))).compile().as_text()
  assert text.count(' conditional(') == 1
  assert jax.jit(ACTIVATIONS[name]).lower(X).compile().as_text().count(' conditional(') == 0   # forwards: nothing more


@pytest.mark.parametrize('name', KEPT)
def test_dtype_stays(name):
  value, slope = jax.value_and_grad(ACTIVATIONS[name])(jnp.bfloat16(1.5))
  assert value.dtype == slope.dtype == jnp.bfloat16
