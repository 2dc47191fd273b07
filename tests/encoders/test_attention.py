"""One attention, several implementations: all against slow, obvious numpy; masks by what they hide."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders
from mtjax.encoders import masks
from mtjax.encoders.attention import attend

B, L, S, H, G, D = 2, 5, 7, 4, 2, 3


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope='module')
def qkv():
  return normal(0, B, L, H, D), normal(1, B, S, G, D), normal(2, B, S, G, D)


POSITIONS = np.array([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]])
SEGMENTS = (np.array([[1, 1, 2, 2, 3], [1, 2, 2, 2, 2]]), np.array([[1, 1, 2, 3, 3, 2, 1], [2, 2, 1, 1, 2, 2, 2]]))
CASES = {
  'plain': {},
  'padding': dict(mask=np.arange(S)[None] < np.array([[4], [7]])),
  'pairs': dict(mask=np.random.default_rng(3).random((1, H, L, S)) < 0.6),
  'causal': dict(causal=True, positions=POSITIONS),
  'window': dict(causal=True, positions=POSITIONS, window=2),
  'prefix': dict(causal=True, positions=POSITIONS, prefix=np.array([4, 2])),
  'segments': dict(segments=SEGMENTS),
  'bias': dict(bias=normal(4, 1, H, L, S), scale=1.0),
  'all': dict(mask=np.arange(S)[None] != 1, causal=True, positions=POSITIONS, segments=SEGMENTS, bias=normal(5, B, 1, L, S)),
}


def reference(query, key, value, mask=None, bias=None, causal=False, window=None, prefix=None, segments=None,
              positions=None, scale=None):
  out = np.zeros_like(query)
  for b, i, h in np.ndindex(B, L, H):
    seen, scores = [], []
    for s in range(S):
      shown = True
      if mask is not None:
        full = mask[:, None, None, :] if mask.ndim == 2 else mask
        shown = np.broadcast_to(full, (B, H, L, S))[b, h, i, s]
      if causal:
        before = s <= positions[b, i] and (window is None or s > positions[b, i] - window)
        shown = shown and (before or (prefix is not None and s < prefix[b]))
      if segments is not None:
        shown = shown and segments[0][b, i] == segments[1][b, s]
      if shown:
        extra = 0 if bias is None else np.broadcast_to(bias, (B, H, L, S))[b, h, i, s]
        seen.append(s)
        scores.append(query[b, i, h] @ key[b, s, h // (H // G)] * (D**-0.5 if scale is None else scale) + extra)
    seen = seen or range(S)
    weights = np.exp(scores) if scores else np.ones(S)
    out[b, i, h] = sum(w * value[b, s, h // (H // G)] for w, s in zip(weights / weights.sum(), seen))
  return out


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
@pytest.mark.parametrize('case', CASES)
def test_values_equal_loops(qkv, case, implementation):
  # Chunks of 3 of 7 keys: the last one is not full.
  got = jax.jit(lambda *x: encoders.attend(*x, **CASES[case], implementation=implementation, chunk=3))(*qkv)
  np.testing.assert_allclose(got, reference(*qkv, **CASES[case]), atol=2e-6)  # sums of seven in another order


@pytest.mark.parametrize('case', ['padding', 'window', 'bias', 'all'])
def test_gradients_of_chunks_are_those_of_the_whole(qkv, case):
  facts = dict(CASES[case])
  bias = facts.pop('bias', np.zeros((1, 1, 1, S), np.float32))
  weights = normal(9, B, L, H, D)

  def grads(implementation):
    def loss(query, key, value, bias):
      out = encoders.attend(query, key, value, bias=bias, **facts, implementation=implementation, chunk=3)
      return jnp.vdot(out, weights)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*qkv, bias)

  for whole, chunked in zip(grads('xla'), grads('chunked')):
    np.testing.assert_allclose(chunked, whole, atol=5e-6)  # the same sums in another order


def test_chunks_keep_no_table_of_all_scores():
  x = jax.ShapeDtypeStruct((1, 1024, 1, 4), jnp.float32)

  def largest(implementation):
    def loss(q, k, v):
      return encoders.attend(q, k, v, causal=True, window=100, implementation=implementation, chunk=64).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(x, x, x).jaxpr
    sizes = []

    def walk(jaxpr):
      for equation in jaxpr.eqns:
        sizes.extend(v.aval.size for v in equation.outvars)
        jax.tree.map(lambda p: walk(getattr(p, 'jaxpr', p)) if hasattr(p, 'eqns') or hasattr(p, 'jaxpr') else None,
                     list(equation.params.values()), is_leaf=lambda p: hasattr(p, 'eqns') or hasattr(p, 'jaxpr'))

    walk(jaxpr)
    return max(sizes)

  assert largest('xla') == 1024 * 1024
  assert largest('chunked') == 1024 * 64


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
def test_a_query_that_sees_nothing_stays_finite_with_its_gradient(qkv, implementation):
  mask = np.zeros((B, S), bool)
  loss = lambda *x: encoders.attend(*x, mask, implementation=implementation, chunk=3).sum()  # noqa: E731
  out, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*qkv)
  assert np.isfinite(out) and all(np.isfinite(g).all() for g in grads)
  np.testing.assert_array_equal(grads[0], 0)


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
def test_softmax_is_float32_under_bfloat16(qkv, implementation):
  low = [jnp.asarray(x, jnp.bfloat16) for x in qkv]
  attend = lambda *x: encoders.attend(*x, implementation=implementation)  # noqa: E731
  jaxpr = str(jax.make_jaxpr(attend)(*low))
  exponentials = [line for line in jaxpr.splitlines() if ' exp ' in line]
  assert exponentials and all('f32[' in line.split('=')[0] for line in exponentials)
  out = attend(*low)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), reference(*qkv), atol=0.05)  # bfloat16 keeps 8 bits


def test_a_table_in_parts_is_the_whole_table():
  facts = masks.seen((B, H, L, S), mask=CASES['pairs']['mask'], segments=SEGMENTS, positions=POSITIONS, causal=True)
  parts = [jnp.broadcast_to(facts.table(start, 3), (B, H, L, 3)) for start in (0, 3, 6)]
  np.testing.assert_array_equal(jnp.concatenate(parts, axis=-1)[..., :S], facts.table())


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs an NVIDIA GPU')
@pytest.mark.parametrize('facts', [{}, dict(causal=True), dict(causal=True, window=5)])
def test_cudnn_is_close_to_xla(facts):
  qkv = [jnp.asarray(normal(i, 2, 64, heads, 64), jnp.bfloat16) for i, heads in enumerate((4, 2, 2))]
  fused, plain = (encoders.attend(*qkv, **facts, implementation=name) for name in ('cudnn', 'xla'))
  np.testing.assert_allclose(fused.astype(jnp.float32), plain.astype(jnp.float32), atol=0.03)  # bfloat16 keeps 8 bits


ERRORS = [
  (dict(implementation='flash'), ValueError, "implementation='flash'.*Known: auto, chunked, cudnn, xla"),
  (dict(chunk=0), ValueError, 'chunk=0; allowed is an integer >= 1'),
  (dict(window=2), ValueError, 'window=2 .*causal=True'),
  (dict(causal=True, window=0, positions=POSITIONS), ValueError, 'window=0; allowed is an integer >= 1'),
  (dict(causal=True), ValueError, r'causal with 5 queries and 7 keys: give positions \[B, L\]'),
  (dict(causal=True, positions=POSITIONS[:, :3]), ValueError, r'positions of shape \[2, 3\]; allowed is \[2, 5\]'),
  (dict(causal=True, positions=POSITIONS, prefix=np.array([1])), ValueError, r'prefix of shape \[1\]; allowed is \[2\]'),
  (dict(mask=np.ones((B, L), bool)), ValueError, r'mask of shape \[2, 1, 1, 5\]; .* \[2, 4, 5, 7\], or \[B, S\] = \[2, 7\]'),
  (dict(mask=np.ones((B, S), np.float32)), TypeError, 'mask of dtype float32; allowed is bool.*called bias'),
  (dict(bias=np.ones((B, S), np.float32)), ValueError, r'bias of shape \[2, 7\]'),
  (dict(segments=SEGMENTS[0]), ValueError, r'segments of shape \[2, 5\] for its keys; allowed is \[2, 7\]'),
]


@pytest.mark.parametrize('facts, error, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(qkv, facts, error, text):
  with pytest.raises(error, match=text):
    encoders.attend(*qkv, **facts)


def test_shapes_that_do_not_fit_are_named(qkv):
  query, key, value = qkv
  with pytest.raises(ValueError, match=r'shapes \[2, 5, 3, 3\], \[2, 7, 2, 3\].*H a multiple of G'):
    encoders.attend(query[:, :, :3], key, value)


@pytest.mark.skipif(jax.default_backend() == 'gpu', reason='there is a GPU')
def test_cudnn_needs_a_gpu(qkv):
  with pytest.raises(ValueError, match="implementation='cudnn', which needs an NVIDIA GPU.*runs on cpu"):
    encoders.attend(*qkv, implementation='cudnn')


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
def test_extra_keys_are_seen_by_every_query(implementation):
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.standard_normal((2, 3, heads, 4)), jnp.float32) for heads in (2, 1, 1))
  extra = tuple(jnp.asarray(rng.standard_normal((2, 2, 1, 4)), jnp.float32) for _ in range(2))
  bias = jnp.asarray(rng.standard_normal((1, 2, 3, 3)), jnp.float32)
  found = attend(q, k, v, causal=True, window=2, bias=bias, extra=extra, implementation=implementation)
  # The same as an explicit table: two keys that all see, then a band.
  table = np.concatenate([np.ones((3, 2), bool), np.tri(3, dtype=bool) & ~np.tri(3, k=-2, dtype=bool)], axis=1)
  wanted = attend(q, jnp.concatenate([extra[0], k], 1), jnp.concatenate([extra[1], v], 1), jnp.asarray(table)[None, None],
                  bias=jnp.pad(bias, [(0, 0), (0, 0), (0, 0), (2, 0)]))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)  # float32
  with pytest.raises(ValueError, match='extra keys and values of shapes'):
    attend(q, k, v, extra=(extra[0], extra[1][:, :1]))
