"""F-MTL: the card's checks, a loop over tasks in numpy beside it, and what rows of zeros and absent tasks do to it."""
import doctest
import importlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtjax.optim
from mtjax import optim
from mtjax.optim import base
from mtjax.optim.sharpness.ftl import flatness
from mtjax.optim.stacked import equal_shares

EXACT = 1e-10  # float64; the guard of a norm is 1e-12
NORM = lambda x: np.sqrt(np.sum(np.square(x)))


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


# Three tasks l_t(theta, phi_t) on shared theta, of two leaves, with heads of different shapes.

def loss(t, theta, heads):
  """A quadratic, different for each task, and a product with the head."""
  h = 1.0 + jnp.arange(3.0) * (t + 1)
  own = 0.5 * jnp.sum(h * (theta['a'] - 0.3 * t) ** 2) + (0.5 + t) * jnp.sum((theta['b'] + 0.5 * t) ** 2)
  return own + 0.5 * (jnp.sum(heads[f'task{t}']['kernel'] * theta['a']) + heads[f'task{t}'].get('bias', 0.0) - 1) ** 2


def problem(dtype=jnp.float64):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  theta = {'a': draw(3), 'b': draw(2, 2)}
  heads = {'task0': {'kernel': draw(3)}, 'task1': {'bias': draw(), 'kernel': draw(3)}, 'task2': {'kernel': draw(3)}}
  return theta, heads


OWNERS = {'task0': 0, 'task1': 1, 'task2': 2}


def gradients(points, heads, tasks=(0, 1, 2)):
  """(jac, q) with task t's row at the t-th of the stacked points; what `grad_fn` is."""
  rows, own = [], {}
  for row, t in enumerate(tasks):
    g, q = jax.grad(lambda theta, heads, t=t: loss(t, theta, heads), argnums=(0, 1))(
      jax.tree.map(lambda x, row=row: x[row], points), heads)
    rows.append(g)
    own[f'task{t}'] = q[f'task{t}']
  return jax.tree.map(lambda *x: jnp.stack(x), *rows), own


gradients = jax.jit(gradients, static_argnums=2)


def stacked(theta, num=3):
  return jax.tree.map(lambda x: jnp.stack([x] * num), theta)


def start(heads_too=False, tasks=(0, 1, 2)):
  """(jac, theta, further arguments of step)."""
  theta, heads = problem()
  heads = {f'task{t}': heads[f'task{t}'] for t in tasks}
  jac, q = gradients(stacked(theta, len(tasks)), heads, tasks)
  if heads_too:
    owners = {f'task{t}': row for row, t in enumerate(tasks)}
    return jac, theta, dict(heads=heads, head_grads=q, owners=owners,
                            grad_fn=lambda points, heads: gradients(points, heads, tasks))
  return jac, theta, dict(grad_fn=lambda points: gradients(points, heads, tasks)[0])


def matrix(jac):
  """Leaves [T, *shape] -> [T, d]."""
  return np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in jax.tree.leaves(jac)], 1)


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def assert_close(a, b, tol=EXACT):
  np.testing.assert_allclose(flat(a), flat(b), rtol=tol, atol=tol)


# Rules: simple ones, each of another kind.

def mean_weights(state, info):
  return equal_shares(info.mask, jnp.float64), state


def pcgrad_weights(state, info):
  """PCGrad's sum where each task is projected off all others at once; for T = 2 it is PCGrad."""
  g = info.gramian
  n = jnp.diag(g)
  off = jnp.where(info.mask[:, None] & info.mask[None, :] & ~jnp.eye(len(n), dtype=bool), jnp.minimum(g, 0), 0)
  pull = jnp.where(n[None, :] > 0, -off / jnp.where(n > 0, n, 1)[None, :], 0)
  return 1 + pull.sum(0), state


def equal_length_weights(state, info):
  """All rows to the same length, the sum of weights 1. Not defined where a row is 0."""
  w = jnp.where(info.mask, 1 / jnp.sqrt(jnp.where(info.mask, jnp.diag(info.gramian), 1)), 0)
  return w / w.sum(), state


def unit_weights(state, info):
  """Each row to length 1, whatever its length was; infinite for a row of zeros."""
  return 1 / jnp.sqrt(jnp.diag(info.gramian)), state


def cosine_weights(state, info):
  """The cosines with all rows. A row of zeros makes all of them NaN."""
  n = jnp.sqrt(jnp.where(info.mask, jnp.diag(info.gramian), 1))
  return jnp.where(info.mask, (info.gramian / (n[:, None] * n[None, :])).sum(1), 0), state


@flax.struct.dataclass
class Smooth:
  """w: [T]."""
  w: jax.Array


def smoothed_weights(state, info):
  w = jnp.where(info.mask, 0.5 * state.w + 0.5 * jnp.sqrt(jnp.diag(info.gramian)), state.w)
  return w, Smooth(w)


def strongest(jac, state, info):
  """Of each parameter the entry of the largest size. Needs all of J."""
  pick = lambda x: jnp.take_along_axis(x, jnp.abs(x).argmax(0)[None], 0)[0]
  return jax.tree.map(pick, jac), None, state


def random_weights(state, info):
  return jax.nn.softmax(jax.random.normal(info.key, (info.num_tasks,))), state


MEAN = base.from_weights(mean_weights, name='mean', needs='gramian')
LOSS_MEAN = base.from_weights(mean_weights, name='loss_mean', needs='losses')
PCGRAD = base.from_weights(pcgrad_weights, name='pcgrad', needs='gramian')
EQUAL = base.from_weights(equal_length_weights, name='equal_length', needs='gramian')
UNIT = base.from_weights(unit_weights, name='unit', needs='gramian')
COSINES = base.from_weights(cosine_weights, name='cosines', needs='gramian')
SMOOTH = base.from_weights(smoothed_weights, name='smoothed', needs='gramian', init=lambda n: Smooth(jnp.ones(n)))
STRONGEST = base.from_jacobian(strongest, name='strongest')
RANDOM = base.from_weights(random_weights, name='random', needs='losses')
RULES = {rule.name: rule for rule in (MEAN, LOSS_MEAN, PCGRAD, EQUAL, SMOOTH, STRONGEST)}
L = jnp.array


def applied(rule, rows):
  """Agg of a matrix [n, d], with a fresh state, through the rule's own door."""
  rows = jnp.asarray(rows)
  return np.array(rule.aggregate(rows, rule.init(rows[0], len(rows)), rows[0], losses=jnp.ones(len(rows)))[0])


def by_numpy(rule, mode='decomposed', norms='split', variant='sam', rho=0.1, heads_too=False):
  """One task after another: (d, q_sam per task, h)."""
  theta, heads = problem()
  g, q = gradients(stacked(theta), heads)
  g = matrix(g)
  flat_theta = flat(theta)
  h, own = [], {}
  for t in range(3):
    q_t, phi_t = flat(q[f'task{t}']), flat(heads[f'task{t}'])
    scaled_g, scaled_q = (np.abs(flat_theta) * g[t], np.abs(phi_t) * q_t) if variant == 'asam' else (g[t], q_t)
    n, n_own = NORM(scaled_g), NORM(scaled_q)
    if norms == 'joint' and heads_too:
      n = n_own = np.sqrt(n ** 2 + n_own ** 2)
    square, own_square = (flat_theta ** 2, phi_t ** 2) if variant == 'asam' else (1, 1)
    near = jax.flatten_util.ravel_pytree(theta)[1](jnp.asarray(flat_theta + rho * square * g[t] / n))
    near_heads = dict(heads)
    if heads_too:
      near_heads[f'task{t}'] = jax.flatten_util.ravel_pytree(heads[f'task{t}'])[1](
        jnp.asarray(phi_t + rho * own_square * q_t / n_own))
    g_sam, q_sam = gradients(stacked(near), near_heads)
    h.append(matrix(g_sam)[t] - g[t])
    own[f'task{t}'] = q_sam[f'task{t}']
  h = np.array(h)
  if mode == 'decomposed':
    d = applied(rule, g) + applied(rule, h)
  elif mode == 'direct':
    d = applied(rule, g + h)
  elif mode == 'second':
    d = applied(rule, [applied(rule, g), applied(rule, h)])
  else:
    d = applied(rule, [applied(rule, [g[t], h[t]]) for t in range(3)])
  return d, own, h


# The card's checks.

@pytest.mark.parametrize('mode', ['decomposed', 'direct'])
@pytest.mark.parametrize('rule', [MEAN, PCGRAD], ids=lambda rule: rule.name)
def test_1_without_radius_it_is_the_rule(rule, mode):
  jac, theta, arguments = start()
  for rho, tol in ((0.0, EXACT), (1e-6, 1e-4)):
    tx = optim.ftl(rho, rule, mode=mode)
    d, state = tx.update(jac, tx.init(theta), theta, **arguments)
    assert_close(d, applied(rule, matrix(jac)), tol)
    if mode == 'decomposed':
      np.testing.assert_allclose(state.gramian[3:, 3:], 0, atol=1e-9)


def test_1_holds_for_scale_free_rules_where_h_is_rounding_error():
  """Another compilation of the same gradients differs in the last bits: that is no flatness part of full length."""
  jac, theta, _ = start()
  tx = optim.ftl(0.0, UNIT)
  nearly = jax.tree.map(lambda x: x * (1 + 4e-16), jac)
  assert (matrix(nearly) != matrix(jac)).any()
  d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=lambda points: nearly)
  assert_close(d, applied(UNIT, matrix(jac)))


def test_2_quadratics_have_h_in_closed_form():
  """h_t = rho H_t g_t / ||g_t||; H_1 = diag(1, 4), a_1 = 0, theta = (1, 1): g_1 = (1, 4), h_1 = rho (1, 16) / sqrt(17)."""
  hessian = np.array([[1.0, 4.0], [2.0, 1.0]])
  a = np.array([[0.0, 0.0], [0.5, -1.0]])
  theta, seen = jnp.ones(2), []
  grad_fn = lambda points: jnp.asarray(hessian) * (points - jnp.asarray(a))
  keep = base.from_jacobian(lambda jac, state, info: (seen.append(np.array(jac)) or jac[0], None, state), name='keep')
  tx = optim.ftl(0.3, keep)
  jac = grad_fn(jnp.stack([theta, theta]))
  tx.update(jac, tx.init(theta), theta, grad_fn=grad_fn)
  g, h = seen
  np.testing.assert_array_equal(g[0], [1, 4])
  np.testing.assert_allclose(h[0], 0.3 * np.array([1, 16]) / np.sqrt(17), rtol=EXACT)
  np.testing.assert_allclose(h, 0.3 * hessian * g / np.linalg.norm(g, axis=1, keepdims=True), rtol=EXACT)


@pytest.mark.parametrize('rule', [MEAN, LOSS_MEAN], ids=lambda rule: rule.name)
def test_3_under_the_mean_decomposed_is_direct(rule):
  jac, theta, arguments = start()
  d = [tx.update(jac, tx.init(theta), theta, losses=jnp.ones(3), **arguments)[0]
       for tx in (optim.ftl(0.3, rule), optim.ftl(0.3, rule, mode='direct'))]
  assert_close(d[0], d[1])
  assert NORM(flat(d[0]) - applied(rule, matrix(jac))) > 0.1


@pytest.mark.parametrize('variant', ['sam', 'asam'])
@pytest.mark.parametrize('rule', [MEAN, PCGRAD, STRONGEST], ids=lambda rule: rule.name)
def test_4_one_task_is_plain_sam(rule, variant):
  theta, heads = problem()
  jac, _ = gradients(stacked(theta, 1), heads, (1,))
  tx = optim.ftl(0.3, rule, variant=variant)
  d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=lambda points: gradients(points, heads, (1,))[0])
  sam = optim.sam(0.3) if variant == 'sam' else optim.asam(0.3, eta=0.0, weights=['.*'])
  first = lambda jac: jax.tree.map(lambda x: x[0], jac)
  expected, _ = sam.update(first(jac), sam.init(theta), theta,
                           grad_fn=lambda theta: first(gradients(stacked(theta, 1), heads, (1,))[0]))
  assert_close(d, expected)


# A loop over tasks beside it.

@pytest.mark.parametrize('mode', ['decomposed', 'direct', 'second', 'each'])
@pytest.mark.parametrize('rule', [PCGRAD, STRONGEST], ids=lambda rule: rule.name)
def test_modes_against_numpy(rule, mode):
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, rule, mode=mode)
  d, _ = tx.update(jac, tx.init(theta), theta, **arguments)
  assert_close(d, by_numpy(rule, mode)[0])


@pytest.mark.parametrize('norms', ['split', 'joint'])
@pytest.mark.parametrize('variant', ['sam', 'asam'])
def test_heads_against_numpy(variant, norms):
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, PCGRAD, variant=variant, norms=norms)
  d, q_sam, state = tx.step(jac, tx.init(theta), theta, **arguments)
  expected, expected_q, _ = by_numpy(PCGRAD, norms=norms, variant=variant, heads_too=True)
  assert_close(d, expected)
  assert_close(q_sam, expected_q)
  assert jax.tree.structure(q_sam) == jax.tree.structure(arguments['heads'])
  split = by_numpy(PCGRAD, norms='split', variant=variant, heads_too=True)[0]
  assert (NORM(expected - split) > 1e-3) == (norms == 'joint')


def test_the_gramian_of_both_parts_is_one():
  """Its blocks are g-g, g-h and h-h, and the weights from them those of two separate calls."""
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, SMOOTH)
  state = tx.init(theta)
  d, state = tx.update(jac, state, theta, **arguments)
  expected, _, h = by_numpy(SMOOTH)
  rows = np.concatenate([matrix(jac), h])
  np.testing.assert_allclose(state.gramian, rows @ rows.T, rtol=1e-8)
  assert_close(d, expected)
  np.testing.assert_allclose(state.rules['loss'].inner.w, 0.5 + 0.5 * np.linalg.norm(rows[:3], axis=1))
  np.testing.assert_allclose(state.rules['flat'].inner.w, 0.5 + 0.5 * np.linalg.norm(rows[3:], axis=1))


def test_owners_may_be_written_in_full_or_by_path():
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, MEAN)
  expected = tx.step(jac, tx.init(theta), theta, **arguments)
  in_full = {'task0': {'kernel': 0}, 'task1': {'bias': 1, 'kernel': 1}, 'task2': {'kernel': 2}}
  by_path = {'task0/kernel': 0, 'task1/bias': 1, 'task1/kernel': 1, 'task2/kernel': 2}
  for owners in (in_full, by_path):
    assert_close(tx.step(jac, tx.init(theta), theta, **arguments | {'owners': owners}), expected, 0)


def test_rules_that_weigh_whole_losses_weigh_the_heads_too():
  weights = lambda state, info: (jnp.array([0.2, 0.3, 0.5]), state)
  rule = base.from_weights(weights, name='fixed', needs='losses', scale_heads=True)
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, rule)
  _, q_sam, _ = tx.step(jac, tx.init(theta), theta, losses=jnp.ones(3), **arguments)
  own = by_numpy(PCGRAD, heads_too=True)[1]
  assert_close(q_sam, {f'task{t}': jax.tree.map(lambda x, w=w: w * x, own[f'task{t}']) for t, w in enumerate((0.2, 0.3, 0.5))})


# Rows of zeros, absent tasks, scales.

@pytest.mark.parametrize('mode', ['decomposed', 'direct', 'second', 'each'])
@pytest.mark.parametrize('rule', [EQUAL, COSINES, PCGRAD, STRONGEST, MEAN], ids=lambda rule: rule.name)
def test_rows_h_of_zeros_give_no_nan(rule, mode):
  """The losses of some or all tasks are linear: their h is 0, and a rule may divide by its length."""
  slope, bend = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([[0.0, 0.0], [1.0, 2.0]])
  theta = jnp.ones(2)
  tx = optim.ftl(0.1, rule, mode=mode)
  for curvature in (bend, 0 * bend):
    grad_fn = lambda points, curvature=curvature: slope + curvature * points
    jac = grad_fn(jnp.stack([theta, theta]))
    d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=grad_fn)
    assert np.isfinite(d).all()
  if mode in ('decomposed', 'direct'):
    assert_close(d, applied(rule, slope))  # the last case: no flatness part at all
  for rows in (jnp.zeros((2, 2)), jnp.zeros((2, 2)).at[0].set(1.0)):
    d, _ = tx.update(rows, tx.init(theta), theta, grad_fn=lambda points, rows=rows: rows)
    assert np.isfinite(d).all() or rule in (EQUAL, COSINES)  # not defined where a g is 0 either


@pytest.mark.parametrize('rule', [PCGRAD, EQUAL, SMOOTH, STRONGEST], ids=lambda rule: rule.name)
def test_more_tasks_than_parameters_and_equal_rows(rule):
  hessian = jnp.array([[2.0], [2.0], [1.0]])
  grad_fn = lambda points: hessian * points
  tx = optim.ftl(0.1, rule)
  d, _ = tx.update(hessian, tx.init(jnp.ones(1)), jnp.ones(1), grad_fn=grad_fn)
  assert_close(d, applied(rule, hessian) + applied(rule, 0.1 * hessian))  # h_t = rho H_t


def test_a_row_of_zeros_counts_among_the_tasks():
  """Half of the other row's h, not all of it."""
  slope, bend = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([[0.0, 0.0], [1.0, 2.0]])
  grad_fn = lambda points: slope + bend * points
  theta = jnp.ones(2)
  jac = grad_fn(jnp.stack([theta, theta]))
  tx = optim.ftl(0.1, MEAN)
  d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=grad_fn)
  g = np.array(jac)
  h = 0.1 * np.array([1.0, 2.0]) * g[1] / NORM(g[1])
  assert_close(d, g.mean(0) + h / 2)
  tx = optim.ftl(0.1, UNIT)  # an infinite weight of the row of zeros leaves the other's alone
  d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=grad_fn)
  assert_close(d, g[0] / NORM(g[0]) + g[1] / NORM(g[1]) + h / NORM(h))


def test_a_nan_of_a_loss_is_not_hidden():
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, EQUAL)
  bad = lambda points: jax.tree.map(lambda x, g: x.at[0].set(jnp.nan).at[1].set(g[1]), arguments['grad_fn'](points), jac)
  d, _ = tx.update(jac, tx.init(theta), theta, grad_fn=bad)
  assert np.isnan(flat(d)).any()


@pytest.mark.parametrize('name, mode', [(name, mode) for name, rule in RULES.items() for mode in (
  ('decomposed', 'direct') if rule.needs == 'losses' else ('decomposed', 'direct', 'second', 'each'))])
def test_an_absent_task_is_as_if_deleted(name, mode):
  rule = RULES[name]
  without, theta, few = start(heads_too=True, tasks=(0, 2))
  tx = optim.ftl(0.1, rule, mode=mode, norms='joint')
  expected, expected_q, _ = tx.step(without, tx.init(theta), theta, losses=jnp.ones(2), **few)
  jac, theta, all_three = start(heads_too=True)
  spoil = lambda tree: jax.tree.map(lambda x: x.at[1].set(jnp.nan), tree)
  grad_fn = all_three['grad_fn']

  def spoilt(points, heads):
    jac_sam, q_sam = grad_fn(points, heads)
    return spoil(jac_sam), q_sam | {'task1': jax.tree.map(lambda x: x * jnp.nan, q_sam['task1'])}

  q = all_three['head_grads'] | {'task1': jax.tree.map(lambda x: x * jnp.nan, all_three['head_grads']['task1'])}
  d, q_sam, state = tx.step(spoil(jac), tx.init(theta), theta, losses=jnp.array([1.0, jnp.nan, 1.0]),
                            active=jnp.array([True, False, True]),
                            **all_three | {'grad_fn': spoilt, 'head_grads': q})
  assert_close(d, expected)
  assert_close({'task0': q_sam['task0'], 'task2': q_sam['task2']}, expected_q)
  assert_close(q_sam['task1'], np.zeros(4), 0)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('size', [1e-10, 1e10])
@pytest.mark.parametrize('rule', [MEAN, EQUAL], ids=lambda rule: rule.name)
def test_scales_of_the_losses_in_float32(rule, size):
  theta = jnp.ones(3, jnp.float32)
  hessian = jnp.array([[1.0, 4.0, 0.5], [2.0, 1.0, 3.0]], jnp.float32)
  results = []
  for c in (1.0, size):
    grad_fn = lambda points, c=c: jnp.float32(c) * hessian * points
    tx = optim.ftl(0.3, rule)
    d, _ = tx.update(grad_fn(jnp.stack([theta, theta])), tx.init(theta), theta, grad_fn=grad_fn)
    assert d.dtype == jnp.float32
    results.append(np.float64(d) / c)
  # At 1e-10 the card's 1e-12 beside the norm shortens eps by up to 1 %.
  np.testing.assert_allclose(results[1], results[0], rtol=1e-2 if size < 1 else 1e-5)


# LookSAM per task.

def look(v_of, g):
  return 0.7 * NORM(g) / NORM(v_of) * v_of


@pytest.mark.parametrize('store', ['tasks', 'aggregate'])
def test_every_k_against_numpy(store):
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, PCGRAD, every_k=2, store=store, num_tasks=3)
  state = tx.init(theta)
  first, q_first, state = tx.step(jac, state, theta, **arguments)
  expected, own, h = by_numpy(PCGRAD, heads_too=True)
  assert_close(first, expected)
  assert_close(q_first, own)
  later = jax.tree.map(lambda x: 2 * x + 0.1, jac)
  second, q_second, state = tx.step(later, state, theta, **arguments)
  g, g_later = matrix(jac), matrix(later)
  orthogonal = lambda x, g: x - (x @ g) / (g @ g) * g
  if store == 'tasks':
    again = np.array([look(orthogonal(h[t], g[t]), g_later[t]) for t in range(3)])
    assert_close(second, applied(PCGRAD, g_later) + applied(PCGRAD, again), 1e-8)
  else:
    d = applied(PCGRAD, g_later)
    assert_close(second, d + look(orthogonal(applied(PCGRAD, h), applied(PCGRAD, g)), d), 1e-8)
  assert_close(q_second, arguments['head_grads'], 0)  # between, the plain gradient
  assert jax.tree.map(jnp.shape, state.kept) == jax.tree.map(jnp.shape, jac if store == 'tasks' else theta)


@pytest.mark.parametrize('store', ['tasks', 'aggregate'])
def test_every_k_skips_the_second_jacobian(store):
  """Over 10 steps at k = 5 two of them, at run time."""
  jac, theta, arguments = start()
  calls = []

  def counted(points):
    jax.debug.callback(lambda: calls.append(1))
    return arguments['grad_fn'](points)

  tx = optim.ftl(0.1, MEAN, every_k=5, store=store, num_tasks=3)

  def step(state, _):
    d, state = tx.update(jac, state, theta, grad_fn=counted)
    return state, d

  state, d = jax.jit(lambda state: jax.lax.scan(step, state, None, length=10))(tx.init(theta))
  jax.block_until_ready(d)
  jax.effects_barrier()
  assert len(calls) == 2 and state.count == 10


def test_an_absent_task_keeps_what_it_had():
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, MEAN, every_k=2, num_tasks=3)
  _, state = tx.update(jac, tx.init(theta), theta, **arguments)
  _, later = tx.update(jac, state.replace(count=state.count + 1), theta, active=jnp.array([True, False, True]),
                       **arguments | {'grad_fn': lambda points: arguments['grad_fn'](jax.tree.map(lambda x: 2 * x, points))})
  before, after = matrix(state.kept), matrix(later.kept)
  np.testing.assert_array_equal(after[1], before[1])
  assert NORM(after[0] - before[0]) > 1e-3


# In training.

@pytest.mark.parametrize('settings', [{}, {'mode': 'second'}, {'mode': 'each'}, {'every_k': 2},
                                      {'every_k': 2, 'store': 'aggregate'}], ids=str)
def test_jit_scan_and_chain(settings):
  """As eagerly, with a state of constant shapes; the losses fall."""
  theta, heads = problem()
  grad_fn = lambda points: gradients(points, heads)[0]
  tx = optax.chain(optim.ftl(0.05, SMOOTH, num_tasks=3, **settings), optax.adamw(0.05))

  def step(carry, _):
    theta, state = carry
    updates, state = tx.update(grad_fn(stacked(theta)), state, theta, grad_fn=grad_fn)
    return (optax.apply_updates(theta, updates), state), None

  carry = (theta, tx.init(theta))
  scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=3))(carry)
  for _ in range(3):
    carry, _ = step(carry, None)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), scanned) == jax.tree.map(lambda x: (x.shape, x.dtype), carry)
  assert_close(scanned, carry, 1e-8)  # three steps of Adam, which divides by small numbers
  total = lambda theta: sum(loss(t, theta, heads) for t in range(3))
  assert total(scanned[0]) < total(theta)


@pytest.mark.parametrize('settings', [{}, {'mode': 'each'}, {'every_k': 2}, {'every_k': 2, 'store': 'aggregate'}], ids=str)
def test_the_number_of_tasks_may_come_with_the_first_update(settings):
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, SMOOTH, **settings)
  shapes = lambda state: jax.tree.map(jnp.shape, state)
  d, state = tx.update(jac, tx.init(theta), theta, **arguments)
  known, later = tx.update(jac, tx.init(theta, num_tasks=3), theta, **arguments)
  assert_close(d, known, 0)
  assert shapes(state) == shapes(later) == shapes(tx.init(theta, num_tasks=3))


def test_one_key_serves_both_parts():
  """A random weighting of the losses is then one weighting of the SAM gradients."""
  jac, theta, arguments = start()
  d = [tx.update(jac, tx.init(theta), theta, losses=jnp.ones(3), key=jax.random.key(5), **arguments)[0]
       for tx in (optim.ftl(0.1, RANDOM), optim.ftl(0.1, RANDOM, mode='direct'))]
  assert_close(d[0], d[1])


@pytest.mark.parametrize('needs', ['gramian', 'losses'])
def test_losses_after_the_step_reach_the_rule(needs):
  """By `observe`, or by the next update, in both states."""
  rule = base.from_weights(lambda state, info: (state.w, state), name='watch', needs=needs,
                           init=lambda n: Smooth(jnp.ones(n)), observes='losses_after',
                           observe=lambda state, after, active: Smooth(after))
  jac, theta, arguments = start()
  tx = optim.ftl(0.1, rule)
  assert tx.observes == 'losses_after'
  after = jnp.array([1.0, 2.0, 3.0])
  told = tx.observe(tx.init(theta, num_tasks=3), after)
  one, state = tx.update(jac, told, theta, losses=jnp.ones(3), **arguments)
  two, _ = tx.update(jac, tx.init(theta), theta, losses=jnp.ones(3), losses_after=after, **arguments)
  assert_close(one, two, 0)
  assert all((state.rules[role].inner.w == after).all() for role in ('loss', 'flat'))
  assert optim.ftl(0.1, MEAN).observe is None
  if needs == 'gramian':
    state = optim.ftl(0.1, rule, mode='second').observe(optim.ftl(0.1, rule, mode='second').init(theta, 3), after)
    assert state.rules['pair'].inner.w.shape == (2,)  # of two vectors, not of tasks


def test_flatness_of_rows_that_hardly_moved():
  jac = {'a': jnp.array([[1.0, 2.0], [1.0, 2.0]], jnp.float32)}
  near = {'a': jac['a'] * jnp.array([[1 + 2e-7], [1.01]], jnp.float32)}
  h = flatness(near, jac)['a']
  np.testing.assert_array_equal(h[0], 0)
  np.testing.assert_allclose(h[1], [0.01, 0.02], rtol=1e-4)


# Errors.

@pytest.mark.parametrize('make, message', [
  (lambda: optim.ftl(-1.0, MEAN), r'ftl: rho must be a finite number in \[0, inf\], got -1.0'),
  (lambda: optim.ftl(0.1), r'ftl needs an aggregator, e.g. ftl\(0.05, mtjax.optim.pcgrad\(\)\), got None'),
  (lambda: optim.ftl(0.1, optax.sgd(1.0)), 'ftl needs an aggregator'),
  (lambda: optim.ftl(0.1, MEAN, norms='spilt'), "ftl has no norms 'spilt'. Did you mean 'split'"),
  (lambda: optim.ftl(0.1, MEAN, variant='gsam'), "ftl has no variant 'gsam'.* Known: asam, sam"),
  (lambda: optim.ftl(0.1, MEAN, mode='decompose'), "ftl has no mode 'decompose'. Did you mean 'decomposed'"),
  (lambda: optim.ftl(0.1, MEAN, store='task'), "ftl has no store 'task'. Did you mean 'tasks'"),
  (lambda: optim.ftl(0.1, MEAN, every_k=0), 'ftl: every_k must be a whole number of steps >= 1, got 0'),
  (lambda: optim.ftl(0.1, MEAN, alpha=-0.1), 'ftl: alpha must be'),
  (lambda: optim.ftl(0.1, MEAN, num_tasks=0), 'ftl: num_tasks must be'),
  (lambda: optim.ftl(0.1, LOSS_MEAN, mode='each'), "mode 'each' weighs gradients .* but loss_mean looks at losses only"),
  (lambda: optim.ftl(0.1, MEAN, mode='second', store='aggregate'), "store 'aggregate' keeps .* mode 'second' does not"),
])
def test_settings_that_make_no_sense(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize('change, message', [
  ({'grad_fn': None}, r'ftl takes a second gradient: pass grad_fn \(stacked parameters -> stacked gradients'),
  ({'grad_fn': lambda points, heads: points}, 'must return the pair'),
  ({'grad_fn': lambda points, heads: (points, points)}, 'ftl, for heads: grad_fn must return a tree like'),
  ({'head_grads': None}, 'head_grads must be a tree like heads'),
  ({'owners': None}, 'owners must name the task of each leaf of heads'),
  ({'owners': {'task0': 0, 'task1': 1}}, 'owners must name the task of each leaf of heads'),
  ({'owners': {**OWNERS, 'task2': 3}}, r"the owner of 'task2/kernel' must be a task in 0 … 2 as an int, got 3"),
  ({'jac_other': 1}, 'ftl has no use for jac_other'),
])
def test_what_step_needs(change, message):
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, MEAN)
  with pytest.raises(ValueError, match=message):
    tx.step(jac, tx.init(theta), theta, **arguments | change)


def test_what_update_needs():
  jac, theta, arguments = start(heads_too=True)
  tx = optim.ftl(0.1, MEAN)
  with pytest.raises(ValueError, match='with heads call .step'):
    tx.update(jac, tx.init(theta), theta, **arguments)
  with pytest.raises(ValueError, match='ftl moves the parameters: pass them to update'):
    tx.update(jac, tx.init(theta), grad_fn=lambda points: points)
  with pytest.raises(ValueError, match='the state is that of 2 tasks, but the gradients are those of 3'):
    tx.update(jac, tx.init(theta, num_tasks=2), theta, grad_fn=lambda points: points)
  with pytest.raises(ValueError, match="leaf 'a' has shape .* already summed over tasks"):
    tx.update(theta, tx.init(theta), theta, grad_fn=lambda points: points)


def test_the_example_runs():
  module = importlib.import_module('mtjax.optim.sharpness.ftl')
  failed, tried = doctest.testmod(module, extraglobs={'mtjax': mtjax, 'optax': optax, 'jax': jax, 'jnp': jnp})
  assert tried and not failed
