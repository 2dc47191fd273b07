"""Transformers with nothing but their products of matrices and softmaxes: no norm, bias, activation, mask or sum.

    x <- W_o softmax(W_q x (W_k m)^T) W_v m,  m = x, or the memory;   x <- W_2 W_1 x,  gated: W_2 (W_g x * W_1 x)

B rows, L tokens, M tokens of the memory, D width, H heads, G key heads, R = H / G, K numbers a head. A function takes
the kernels of a family's parameters (a nested dict) and its inputs; `how` is the dtype of the products and the
implementation of the attention.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class How(NamedTuple):
  """The dtype of the products, and whether attention is the fused kernel of NVIDIA GPUs."""
  dtype: DTypeLike = jnp.float32
  fused: bool = False


def product(x: jax.Array, p: dict[str, Any], how: How) -> jax.Array:
  """x [..., D] times a kernel [D, F]."""
  return x.astype(how.dtype) @ p['kernel'].astype(how.dtype)


def attention(x: jax.Array, p: dict[str, Any], how: How, memory: jax.Array | None = None) -> jax.Array:
  """x [B, L, D], memory [B, M, D] or None -> [B, L, D]."""
  memory = x if memory is None else memory
  q, k, v = (jnp.einsum('bld,dhk->blhk', y.astype(how.dtype), p[name]['kernel'].astype(how.dtype))
             for name, y in (('query', x), ('key', memory), ('value', memory)))
  if how.fused:
    y = jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
  else:
    rows, length, heads, size = q.shape
    q = q.reshape(rows, length, k.shape[2], heads // k.shape[2], size)
    scores = jnp.einsum('blgrk,bmgk->bgrlm', q, k, preferred_element_type=jnp.float32)
    y = jnp.einsum('bgrlm,bmgk->blgrk', jax.nn.softmax(scores).astype(how.dtype), v)
    y = y.reshape(rows, length, heads, size)
  return jnp.einsum('blhk,hkd->bld', y, p['out']['kernel'].astype(how.dtype))


def mlp(x: jax.Array, p: dict[str, Any], how: How) -> jax.Array:
  """x [..., D] -> [..., D], gated where there is a gate."""
  y = product(x, p['fc1'], how)
  y = product(x, p['gate'], how) * y if 'gate' in p else y
  return product(y, p['fc2'], how)


def blocks(x: jax.Array, p: dict[str, Any], how: How, memory: jax.Array | None = None) -> jax.Array:
  """All layers; those of a decoder read the memory, too."""
  for i in range(sum(name.startswith('block_') for name in p)):
    own = p[f'block_{i}']
    x = attention(x, own['attn'], how)
    x = attention(x, own['cross'], how, memory) if 'cross' in own else x
    x = mlp(x, own['mlp'], how)
  return x


def look_up(tokens: jax.Array, p: dict[str, Any], how: How) -> jax.Array:
  """tokens [B, L] -> [B, L, D]."""
  return jnp.take(p['embedding'], tokens, axis=0).astype(how.dtype)


def to_vocabulary(x: jax.Array, p: dict[str, Any], how: How) -> jax.Array:
  """[B, L, D] -> [B, L, V] float32 by the table of embeddings."""
  return jnp.einsum('bld,vd->blv', x, p['embedding'].astype(how.dtype), preferred_element_type=jnp.float32)


def convolve(x: jax.Array, p: dict[str, Any], how: How, stride: int | tuple[int, ...] = 1, padding: Any = 'SAME',
             groups: int = 1) -> jax.Array:
  """x [B, …, C] with a kernel [sides…, C / groups, F]."""
  axes, kernel = 'HW'[: x.ndim - 2], p['kernel'].astype(how.dtype)
  stride = (stride,) * len(axes) if isinstance(stride, int) else stride
  return jax.lax.conv_general_dilated(x.astype(how.dtype), kernel, stride, padding, feature_group_count=groups,
                                      dimension_numbers=(f'N{axes}C', f'{axes}IO', f'N{axes}C'))


def language_model(p, tokens, how):
  """BERT, GPT-2, Llama: tokens [B, L] -> logits [B, L, V]; BERT's head has one product more."""
  x = blocks(look_up(tokens, p['embed'], how), p, how)
  x = product(x, p['mlm']['dense'], how) if 'mlm' in p else x
  return to_vocabulary(x, p['embed'], how)


def patches(stride: int, first: int):
  """ViT, AST: images [B, H, W, C] or a spectrogram [B, frames, mels] -> tokens [B, L, D], the `first` of them zeros."""
  def run(p, x, how):
    x = x.transpose(0, 2, 1)[..., None] if x.ndim == 3 else x
    x = convolve(x, p['embed'], how, stride, 'VALID')
    return blocks(jnp.pad(x.reshape(len(x), -1, x.shape[-1]), [(0, 0), (first, 0), (0, 0)]), p, how)

  return run


def t5(p, inputs, how):
  """(inputs [B, M], targets [B, L]) -> logits [B, L, V]."""
  memory, x = (look_up(tokens, p['embed'], how) for tokens in inputs)
  x = blocks(x, p['decoder'], how, blocks(memory, p['encoder'], how))
  return to_vocabulary(x, p['embed'], how)


def whisper(p, inputs, how):
  """(spectrogram [B, T, M], targets [B, L]) -> logits [B, L, V]."""
  memory, tokens = inputs
  for i, stride in ((1, 1), (2, 2)):
    memory = convolve(memory, p['encoder'][f'conv{i}'], how, stride, ((1, 1),))
  x = blocks(look_up(tokens, p['decoder']['embed'], how), p['decoder'], how, blocks(memory, p['encoder'], how))
  return to_vocabulary(x, p['decoder']['embed'], how)


def layers(p, inputs, how):
  """MLP, Tabular: vectors [B, N], or columns of codes and numbers -> [B, widths[-1]]."""
  x, p = inputs, p
  if isinstance(inputs, dict):
    x = look_up(inputs['categorical'], p['embed'], how)
    x = jnp.concatenate([x.reshape(len(x), -1), inputs['numeric'].astype(how.dtype)], axis=1)
    p = p['mlp']
  for i in range(sum(name.startswith('fc') for name in p)):
    x = product(x, p[f'fc{i + 1}'], how)
  return x
