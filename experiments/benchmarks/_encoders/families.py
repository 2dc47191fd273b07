"""The families: an encoder, a batch, what is read of its features, and its plain counterpart on the same kernels.

Sizes are those of small published models, cut in depth and batch so that a step takes tens to hundreds of milliseconds
on two cores. Both sides look up the same embeddings and compute the same products, in the same dtype.
"""
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks._encoders import plain_images, plain_state_spaces
from experiments.benchmarks._encoders import plain_transformers as plain
from mtjax import encoders, tree

# The leaves that the plain counterparts use.
KERNELS = ('kernel', 'embedding', 'A_log')


@dataclasses.dataclass
class Family:
  """One row of the table.

  Attributes:
    module: the encoder.
    inputs: of one batch.
    plain: (kernels, inputs, how) -> array.
    read: features -> what the loss is a function of, the counterpart of that array.
  """
  module: nn.Module
  inputs: Any
  plain: Callable[..., jax.Array]
  read: Callable[[Any], jax.Array]

  def params(self) -> Any:
    """Initial parameters, with embeddings of unit size: without norms, products of small numbers vanish."""
    params = jax.jit(lambda: self.module.init(jax.random.key(0), self.inputs)['params'])()
    return tree.map_with_path(lambda path, x: x / x.std() if path.endswith('embedding') else x, params)

  def kernels(self, params: Any) -> Any:
    """The parameters that the plain counterpart reads."""
    reads = jax.make_jaxpr(lambda p: self.plain(p, self.inputs, plain.How()))
    flat = {path: x for path, x in tree.flatten(params).items() if path.split('/')[-1] in KERNELS}
    jaxpr = reads(tree.unflatten(flat)).jaxpr
    used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
    return tree.unflatten({path: x for (path, x), v in zip(flat.items(), jaxpr.invars) if id(v) in used})


def logits(features):
  """[B, L, V]."""
  return features.aux['logits']


def tokens(features):
  """[B, L, D]."""
  return features.tokens


def pooled(features):
  """[B, D]."""
  return features.pooled


def last_map(features):
  """[B, H, W, D]."""
  return features.maps[-1]


def text(rows: int, length: int, vocabulary: int = 4096, seed: int = 0) -> np.ndarray:
  """Tokens [rows, length], none of them padding."""
  return np.random.default_rng(seed).integers(1, vocabulary, (rows, length)).astype(np.int32)


def floats(*shape: int) -> np.ndarray:
  """Standard normal numbers."""
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _bert(**how):
  module = encoders.BERT(vocab_size=4096, width=384, depth=2, heads=6, max_length=128, head='mlm', **how)
  return Family(module, text(4, 128), plain.language_model, logits)


def _vit(**how):
  module = encoders.ViT(patch=16, width=384, depth=2, heads=6, **how)
  return Family(module, floats(4, 176, 176, 3), plain.patches(16, 1), tokens)


def _gpt2(**how):
  module = encoders.GPT2(vocab_size=4096, width=384, depth=2, heads=6, max_length=128, **how)
  return Family(module, text(4, 128), plain.language_model, logits)


def _llama(**how):
  module = encoders.Llama(vocab_size=4096, width=384, depth=2, heads=6, kv_heads=2, hidden=1024, **how)
  return Family(module, text(4, 128), plain.language_model, logits)


def _t5(**how):
  module = encoders.T5(vocab_size=4096, width=384, depth=2, heads=6, hidden=1536, **how)
  return Family(module, (text(2, 96), text(2, 96, seed=1)), plain.t5, logits)


def _whisper(**how):
  module = encoders.Whisper(vocab_size=4096, width=384, depth=2, heads=6, frames=200, max_length=64, start_id=1, **how)
  return Family(module, (floats(2, 400, 80), text(2, 64)), plain.whisper, logits)


def _ast(**how):
  module = encoders.AST(mels=64, frames=256, width=384, depth=2, heads=6, stride=10, **how)
  return Family(module, floats(4, 256, 64), plain.patches(10, 2), tokens)


def _swin(dtype=jnp.float32, **_):
  module = encoders.Swin(width=96, depths=(2, 2, 2), heads=(3, 6, 12), dtype=dtype)
  return Family(module, floats(4, 112, 112, 3), plain_images.swin(4, 7), last_map)


def _convnet(dtype=jnp.float32, **_):
  return Family(encoders.ConvNet(width=64, depths=(2, 2, 2, 2), dtype=dtype), floats(4, 32, 32, 3),
                plain_images.convnet, last_map)


def _efficientnet(dtype=jnp.float32, **_):
  return Family(encoders.EfficientNetLite('lite0', dtype=dtype), floats(4, 128, 128, 3),
                plain_images.efficientnet('lite0'), pooled)


def _mamba(dtype=jnp.float32, **_):
  module = encoders.Mamba(vocab_size=4096, width=384, depth=2, logits=True, dtype=dtype)
  return Family(module, text(2, 256), plain_state_spaces.mamba, logits)


def _mamba2(dtype=jnp.float32, **_):
  module = encoders.Mamba2(vocab_size=4096, width=384, depth=2, state_size=64, logits=True, dtype=dtype)
  return Family(module, text(2, 256), plain_state_spaces.mamba2(64, 64), logits)


def _mlp(dtype=jnp.float32, **_):
  return Family(encoders.MLP(widths=(1024,) * 4, dtype=dtype), floats(512, 784), plain.layers, pooled)


def _tabular(dtype=jnp.float32, **_):
  module = encoders.Tabular(codes=1000, embed_width=16, widths=(1024,) * 3, dtype=dtype)
  columns = np.random.default_rng(0).integers(0, 1000, (512, 26)).astype(np.int32)
  return Family(module, {'categorical': columns, 'numeric': floats(512, 13)}, plain.layers, pooled)


# {name: (dtype=…, implementation=…) -> Family}; those without `attend` know no implementation.
FAMILIES: dict[str, Callable[..., Family]] = {
  'bert': _bert, 'vit': _vit, 'gpt2': _gpt2, 'llama': _llama, 't5': _t5, 'whisper': _whisper, 'ast': _ast,
  'swin': _swin, 'convnet': _convnet, 'efficientnet_lite': _efficientnet, 'mamba': _mamba, 'mamba2': _mamba2,
  'mlp': _mlp, 'tabular': _tabular,
}
