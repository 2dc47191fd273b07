"""Encoders that know nothing of mtjax: Linen's own attention, scanned layers, setup, modules called twice."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from optim.calls import quick_jit

from mtjax import adapters, tree
from mtjax.context import Ctx

X = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
MASK = np.arange(4)[None, None, None] < np.array([4, 2, 3])[:, None, None, None]
IDS = np.array([1, 0, 1])
CLOSE = dict(rtol=1e-5, atol=1e-5)  # float32 through two layers


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x, mask):
    y = nn.LayerNorm(name='ln1')(x)
    x = x + nn.MultiHeadDotProductAttention(2, name='attn')(y, y, mask=mask)
    y = nn.LayerNorm(name='ln2')(x)
    return x + nn.Dense(8, name='fc2')(nn.gelu(nn.Dense(16, name='fc1')(y))), None


class Stack(nn.Module):
  scan: bool = False
  remat: bool = False

  @nn.compact
  def __call__(self, x, mask):
    layer = nn.remat(Layer) if self.remat else Layer
    if self.scan:
      scanned = nn.scan(layer, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=nn.broadcast, length=2)
      return scanned(name='layers')(x, mask)[0]
    for i in range(2):
      x, _ = layer(name=f'layer_{i}')(x, mask)
    return x


SPEC = adapters.Spec([{**rule, 'bank': dict(tasks=2)} for rule in (
  dict(site='output', match=r'attn/(query|value|out)$', method=dict(name='lora', rank=2)),
  dict(site='output', match=r'(ln1|fc1)$', method=dict(name='ssf')),
  dict(site='kv', match=r'attn$', method=dict(name='prefix', length=2, hidden=3)),
  dict(site='span', start=r'fc1$', match=r'fc2$', method=dict(name='parallel', rank=2, activation='gelu')),
  dict(site='tokens', match=r'(layers|layer_\d)$', method=dict(name='prompt', length=2, deep=True)),
)])
LORA = adapters.Spec(SPEC.rules[:2])


@functools.cache
def scanned_base():
  shapes = jax.eval_shape(Stack(scan=True).init, jax.random.key(0), X, MASK)['params']
  return table.noise(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes), 0.5)


def unstacked(params):
  """Parameters of a scan as those of a loop."""
  flat = tree.flatten(params)
  return tree.unflatten({path.replace('layers', f'layer_{i}'): x[i] for path, x in flat.items() for i in range(2)})


@functools.cache
def state_of(spec_name):
  spec = {'all': SPEC, 'lora': LORA}[spec_name]
  return table.busy(adapters.init_adapters(jax.random.key(1), Stack(scan=True), scanned_base(), spec, X, mask=MASK))


def loss(encoder, spec):
  forward = adapters.bind(encoder, spec)

  @quick_jit
  def run(base, state):
    def total(state):
      y = forward(base, state, X, MASK, ctx=Ctx(task_id=jnp.array(IDS)))[0]
      return jnp.sum(y**2), y
    return jax.grad(total, has_aux=True)(state)

  return run


def test_scanned_layers_as_a_loop():
  state = state_of('all')
  assert state['adapters']['layers']['attn']['query']['@lora']['a'].shape == (2, 2, 8, 2)  # layers, tasks, D, r
  gradient, y = loss(Stack(scan=True), SPEC)(scanned_base(), state)
  looped = {**state, 'adapters': unstacked(state['adapters'])}
  loop_gradient, loop = loss(Stack(), SPEC)(unstacked(scanned_base()), looped)
  np.testing.assert_allclose(y, loop, **CLOSE)
  near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)  # sums of 100 products
  jax.tree.map(near, unstacked(gradient['adapters']), loop_gradient['adapters'])
  jax.tree.map(near, gradient['shared'], loop_gradient['shared'])
  _, again = loss(Stack(scan=True, remat=True), SPEC)(scanned_base(), state)
  np.testing.assert_allclose(again, y, **CLOSE)


def test_layers_of_a_scan_begin_differently_and_merge_one_by_one():
  fresh = adapters.init_adapters(jax.random.key(1), Stack(scan=True), scanned_base(), LORA, X, mask=MASK)
  a = fresh['adapters']['layers']['attn']['query']['@lora']['a']
  assert len({float(x) for x in a[:, :, 0, 0].ravel()}) == 4
  state = state_of('lora')
  merged = adapters.merge(scanned_base(), state, LORA, task=1)
  found = Stack(scan=True).apply({'params': merged}, X, MASK)
  wanted = adapters.bind(Stack(scan=True), LORA)(scanned_base(), state, X, MASK, ctx=Ctx(task_id=jnp.array(1)))[0]
  np.testing.assert_allclose(found, wanted, **CLOSE)
  one, spec = adapters.select(state, LORA, 1)
  np.testing.assert_allclose(adapters.bind(Stack(scan=True), spec)(scanned_base(), one, X, MASK)[0], wanted, **CLOSE)
  back, _ = adapters.stack([adapters.select(state, LORA, t)[0] for t in range(2)], spec)
  jax.tree.map(np.testing.assert_array_equal, back['adapters'], state['adapters'])


def test_prompts_of_the_first_layer_need_a_first_layer():
  spec = adapters.Spec([dict(site='tokens', match=r'layers$', method=dict(name='prompt', length=2))])
  with pytest.raises(ValueError, match='use deep=True'):
    adapters.init_adapters(jax.random.key(1), Stack(scan=True), scanned_base(), spec, X, mask=MASK)


class Setup(nn.Module):
  """A module made in setup, and called twice."""

  def setup(self):
    self.layer = nn.Dense(8)

  def __call__(self, x):
    return self.layer(nn.tanh(self.layer(x)))


def test_modules_of_setup_that_are_called_twice():
  encoder, spec = Setup(), adapters.Spec([dict(site='output', match=r'layer$', method=dict(name='lora', rank=2))])
  base = table.noise(jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(encoder.init, jax.random.key(0), X)['params']))
  state = table.busy(adapters.init_adapters(jax.random.key(1), encoder, base, spec, X))
  p = state['adapters']['layer']['@lora']
  layer = lambda x: x @ (base['layer']['kernel'] + p['a'] @ p['b']) + base['layer']['bias'][None, None]
  np.testing.assert_allclose(adapters.bind(encoder, spec)(base, state, X)[0], layer(jnp.tanh(layer(X))), **CLOSE)


def test_rows_that_are_not_the_first_axis_are_refused():
  class Folded(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(8, name='fc')(x.reshape(-1, 8))

  spec = adapters.Spec([dict(site='output', match=r'fc$', method='lora', bank=dict(tasks=2))])
  base = {'fc': {'kernel': jnp.eye(8), 'bias': jnp.zeros(8)}}
  state = adapters.init_adapters(jax.random.key(1), Folded(), base, spec, X)
  with pytest.raises(ValueError, match='parameters for 3 rows, but the input of .fc. is .12, 8.'):
    adapters.bind(Folded(), spec)(base, state, X, ctx=Ctx(task_id=jnp.array(IDS)))


def test_a_scan_needs_alike_layers():
  encoder = table.ENCODER.clone(scan=True)
  spec = adapters.Spec([dict(site='output', match=r'block_1/mlp/fc1$', method='bitfit')])
  base = table.base_params()
  state = adapters.init_adapters(jax.random.key(0), encoder, base, spec, table.TOKENS)
  with pytest.raises(ValueError, match='BERT has scan=True, but its layers do not have the same parameters'):
    adapters.bind(encoder, spec)(base, state, table.TOKENS)


class Double(adapters.Method):
  """A method without parameters, for dense layers."""

  def fits(self, site):
    return site.is_dense

  def init(self, key, site):
    return {}

  def apply(self, p, x, y, site):
    return 2 * y


def test_a_method_without_parameters_is_found_by_its_path():
  spec = adapters.Spec([adapters.Rule(adapters.output(r'layer'), Double())])
  base = {'layer': {'kernel': jnp.eye(8), 'bias': jnp.zeros(8)}}
  state = adapters.init_adapters(jax.random.key(0), Setup(), base, spec, X)
  np.testing.assert_allclose(adapters.bind(Setup(), spec)(base, state, X)[0], 2 * jnp.tanh(2 * X), rtol=1e-6)
