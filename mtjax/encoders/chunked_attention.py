"""Attention of long inputs, a chunk of keys at a time: the softmax is corrected as larger scores turn up.

Rabe & Staats, "Self-attention Does Not Need O(n^2) Memory", 2021, https://arxiv.org/abs/2112.05682; the backward pass:
Dao et al., "FlashAttention", NeurIPS 2022, Algorithm 4, https://arxiv.org/abs/2205.14135.

    m' = max(m, max_s x_s);   z' = e^(m - m') z + sum_s e^(x_s - m');   o' = e^(m - m') o + sum_s e^(x_s - m') v_s

for each chunk of scores x; out = o / z. Backward, with P_s = e^(x_s - m) / z computed anew and D = dout . out:

    dv_s = sum_l P_ls dout_l;   dx_ls = P_ls (dout_l . v_s - D_l);   dq_l = scale sum_s dx_ls k_s;   dbias = dx

Memory is that of one chunk of scores, B H L chunk, forwards and backwards. Only reverse-mode derivatives exist.
Differs from the papers: queries are not divided, and no score is -inf but those behind the last key.
"""
import functools

import jax
import jax.numpy as jnp

from mtjax.encoders.masks import Seen
from mtjax.encoders.stack import name_attention_out

UNSEEN = -1e9  # finite: a query that sees no key stays free of NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def chunked_attention(query, key, value, bias, seen: Seen, scale: float, chunk: int) -> jax.Array:
  """query [B, L, H, D], key and value [B, S, G, D] with H = G R, bias float32 [B or 1, H or 1, L or 1, S] or None.

  Args:
    seen: which keys a query sees.
    scale: of the scores.
    chunk: keys a chunk.

  Returns:
    [B, L, H, D] in the dtype of `value`.
  """
  return _forward(query, key, value, bias, seen, scale, chunk)[0]


def _forward(query, key, value, bias, seen, scale, chunk):
  query, scores, chunks = _prepare(query, key, value, bias, seen, scale, chunk)
  rows, queries, groups, repeats, size = query.shape

  def step(carry, i):
    largest, total, out = carry
    x, _, _, v = scores(i)
    new = jnp.maximum(largest, x.max(axis=-1))
    kept, weights = jnp.exp(largest - new), jnp.exp(x - new[..., None])
    mixed = jnp.einsum('bgrls,bsgd->bgrld', weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (new, total * kept + weights.sum(axis=-1), out * kept[..., None] + mixed), None

  shape = (rows, groups, repeats, queries)
  start = (jnp.full(shape, -jnp.inf), jnp.zeros(shape), jnp.zeros((*shape, size)))
  (largest, total, out), _ = jax.lax.scan(step, start, jnp.arange(chunks))
  # Named where they are made: with the policy that keeps them, no chunk is gone through again before the backward pass.
  largest, total, out = name_attention_out((largest, total, out / total[..., None]))
  merged = out.transpose(0, 3, 1, 2, 4).reshape(rows, queries, groups * repeats, size).astype(value.dtype)
  return merged, (largest, total, out)


def _saved(query, key, value, bias, seen, scale, chunk):
  out, kept = _forward(query, key, value, bias, seen, scale, chunk)
  return out, (query, key, value, bias, seen, kept)


def _backward(scale, chunk, saved, dout):
  query, key, value, bias, seen, (largest, total, out) = saved
  split, scores, chunks = _prepare(query, key, value, bias, seen, scale, chunk)
  dout = dout.reshape(split.shape)
  drift = jnp.einsum('blgrd,bgrld->bgrl', dout.astype(jnp.float32), out)

  def step(dquery, i):
    x, table, k, v = scores(i)
    weights = jnp.exp(x - largest[..., None]) / total[..., None]
    dvalue = jnp.einsum('bgrls,blgrd->bsgd', weights.astype(dout.dtype), dout, preferred_element_type=jnp.float32)
    dx = weights * (jnp.einsum('blgrd,bsgd->bgrls', dout, v, preferred_element_type=jnp.float32) - drift[..., None])
    dx = dx if table is None else jnp.where(table, dx, 0)
    low = dx.astype(k.dtype)
    dquery += jnp.einsum('bgrls,bsgd->blgrd', low, k, preferred_element_type=jnp.float32)
    dkey = jnp.einsum('bgrls,blgrd->bsgd', low, split, preferred_element_type=jnp.float32)
    return dquery, (dkey, dvalue, None if bias is None else _sum_like(dx, bias))

  dquery, (dkey, dvalue, dbias) = jax.lax.scan(step, jnp.zeros(split.shape), jnp.arange(chunks))
  dkey, dvalue = (_join(x, 1)[:, : key.shape[1]] for x in (dkey, dvalue))
  dbias = None if bias is None else _join(dbias, 3)[..., : key.shape[1]]
  return ((dquery * scale).reshape(query.shape).astype(query.dtype), dkey.astype(key.dtype),
          dvalue.astype(value.dtype), dbias, None)


chunked_attention.defvjp(_saved, _backward)


def _prepare(query, key, value, bias, seen, scale, chunk):
  """The query [B, L, G, R, D], scaled; the scores of chunk i with their table, keys and values; how many chunks."""
  rows, queries, heads, size = query.shape
  num_keys, groups = key.shape[1:3]
  chunks = -(-num_keys // chunk)
  key, value = (jnp.pad(x, [(0, 0), (0, chunks * chunk - num_keys), (0, 0), (0, 0)]) for x in (key, value))
  if bias is not None:
    bias = jnp.pad(bias, [(0, 0), (0, 0), (0, 0), (0, chunks * chunk - num_keys)])
  query = (query * scale).reshape(rows, queries, groups, heads // groups, size)

  def split(x):  # [B, H or 1, L, S] -> [B, G or 1, R or 1, L, S]
    return x.reshape(x.shape[0], *((groups, heads // groups) if x.shape[1] == heads else (1, 1)), *x.shape[2:])

  def scores(i):
    k, v = (jax.lax.dynamic_slice_in_dim(x, i * chunk, chunk, axis=1) for x in (key, value))
    x = jnp.einsum('blgrd,bsgd->bgrls', query, k, preferred_element_type=jnp.float32)
    if bias is not None:
      x = x + split(jax.lax.dynamic_slice_in_dim(bias, i * chunk, chunk, axis=3))
    table = seen.table(i * chunk, chunk)
    if table is not None:
      table = split(table)
      x = jnp.where(table, x, UNSEEN)
    exists = (i * chunk + jnp.arange(chunk) < num_keys)[None, None, None, None]
    return jnp.where(exists, x, -jnp.inf), table, k, v

  return query, scores, chunks


def _sum_like(dx, bias):
  """dx [B, G, R, L, chunk] summed over the axes on which the bias [B or 1, H or 1, L or 1, S] is broadcast."""
  rows, groups, repeats, queries, size = dx.shape
  dx = dx.reshape(rows, groups * repeats, queries, size)
  return dx.sum(axis=tuple(axis for axis in range(3) if bias.shape[axis] == 1 < dx.shape[axis]), keepdims=True)


def _join(chunks, axis):
  """[n, …, chunk, …], chunk on `axis` of an entry -> […, n chunk, …]."""
  x = jnp.moveaxis(chunks, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2:])
