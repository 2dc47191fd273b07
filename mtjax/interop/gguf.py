"""GGUF files of Llama's kin (Llama, Mistral, SmolLM): one file with weights, configuration and tokenizer.

    module, params = mtjax.interop.gguf.load('SmolLM2-135M-Instruct.Q4_1.gguf')
    tokenizer = mtjax.interop.gguf.tokenizer('SmolLM2-135M-Instruct.Q4_1.gguf')
    logits = module.apply({'params': params}, tokenizer(['The capital of France is'])[0]).aux['logits']

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are read one at a time and dequantised exactly as
the format defines it (`mtjax.interop._gguf_quants`); a 4-bit file stays as coarse as it is, in float32. Queries and
keys are stored for rotations of neighbouring pairs (2 i, 2 i + 1) and are put back into the order of two halves
(i, i + D/2) that `mtjax.encoders.rope` has. Any file, of whatever architecture, can be looked into:

    contents = mtjax.interop.gguf.scan(path)
    contents.metadata['general.architecture'];   mtjax.interop.gguf.read(name, contents.tensors[name])
"""
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Sharding
from jax.typing import DTypeLike

from mtjax.encoders import Llama
from mtjax.interop import _gguf_file, _llama, hf
from mtjax.interop._gguf_file import read, scan
from mtjax.interop._gguf_tokenizer import tokenizer
from mtjax.interop.mapping import Row, Transform

__all__ = ['load', 'read', 'scan', 'tokenizer']

# The parts of a tensor's name at Hugging Face -> here.
NAMES = {
  'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output',
  'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
}
# Metadata -> fields of config.json.
SIZES = {'embedding_length': 'hidden_size', 'block_count': 'num_hidden_layers',
         'feed_forward_length': 'intermediate_size', 'attention.head_count': 'num_attention_heads'}
EPS = 'attention.layer_norm_rms_epsilon'


def load(path: str | pathlib.Path, *, dtype: DTypeLike | None = None,
         sharding: Sharding | Mapping[str, Any] | Callable[[str, tuple[int, ...]], Sharding] | None = None,
         ) -> tuple[Llama, dict]:
  """Reads a model.

  Args:
    path: a GGUF file whose `general.architecture` is 'llama'.
    dtype: of the parameters and of the module's matrix products; None = float32 where a tensor is quantised, else as
      in the file, with products in float32.
    sharding: where the parameters live, as `mtjax.interop.hf.load` takes it.

  Returns:
    (module, params), for module.apply({'params': params}, tokens).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, of another architecture, has features or number formats that are not implemented,
      or tensors are missing, unknown or of another shape, which are all listed.
  """
  contents = scan(path)
  return hf.assemble(FAMILY, configuration(contents), 'LlamaForCausalLM', contents.tensors, _gguf_file, contents.path,
                     dtype=dtype, sharding=sharding)


def configuration(contents: _gguf_file.Contents) -> dict[str, Any]:
  """The fields of Hugging Face's config.json, from a file's metadata. Raises ValueError for what is not implemented."""
  path, metadata, tensors = contents.path, contents.metadata, contents.tensors
  if (architecture := metadata.get('general.architecture')) != 'llama':
    raise ValueError(f"{path} has general.architecture={architecture!r}; allowed is 'llama'.")
  missing = [f'llama.{field}' for field in (*SIZES, EPS) if f'llama.{field}' not in metadata]
  if missing or len(getattr(tensors.get('token_embd.weight'), 'shape', ())) != 2:
    raise ValueError(f'{path} lacks {", ".join(missing) or "the matrix token_embd.weight"}.')
  for field in (*SIZES, 'attention.head_count_kv', 'attention.key_length'):
    size = metadata.get(f'llama.{field}', 1)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
      raise ValueError(f'{path} has llama.{field}={size!r}; allowed is one integer >= 1.')
  for field in (EPS, 'rope.freq_base', 'rope.scaling.factor'):
    number = metadata.get(f'llama.{field}', 1.0)
    if not isinstance(number, float) or not 0 < number < math.inf:
      raise ValueError(f'{path} has llama.{field}={number!r}; allowed is a finite number > 0.')
  config = {theirs: metadata[f'llama.{field}'] for field, theirs in SIZES.items()}
  heads = config['num_attention_heads']
  head_dim = metadata.get('llama.attention.key_length', config['hidden_size'] // heads)
  if head_dim < 2 or head_dim % 2:
    raise ValueError(f'{path} has heads of {head_dim} numbers; allowed is an even number, of which pairs are rotated.')
  _only(contents, head_dim)
  scaling = metadata.get('llama.rope.scaling.type', 'none')
  if scaling not in ('none', 'linear'):
    raise ValueError(f"{path} has llama.rope.scaling.type={scaling!r}; allowed are 'none', 'linear'.")
  linear = {'rope_type': 'linear', 'factor': metadata.get('llama.rope.scaling.factor', 1.0)}
  return config | {
    'vocab_size': tensors['token_embd.weight'].shape[0], 'head_dim': head_dim,
    'num_key_value_heads': metadata.get('llama.attention.head_count_kv', heads),
    'rms_norm_eps': metadata[f'llama.{EPS}'], 'rope_theta': metadata.get('llama.rope.freq_base', 10000.0),
    'rope_scaling': linear if scaling == 'linear' else None, 'tie_word_embeddings': 'output.weight' not in tensors,
    'attention_bias': 'blk.0.attn_q.bias' in tensors, 'mlp_bias': 'blk.0.ffn_gate.bias' in tensors}


def _only(contents, head_dim) -> None:
  """Raises ValueError for metadata that ask for what `Llama` does not compute."""
  allowed = {'expert_count': 0, 'attention.sliding_window': 0, 'rope.dimension_count': head_dim,
             'attention.value_length': head_dim, 'attention.causal': True, 'rope.scale_linear': 1.0}
  for field, value in allowed.items():
    got = contents.metadata.get(f'llama.{field}', value)
    if got != value:
      raise ValueError(f'{contents.path} has llama.{field}={got!r}; implemented is {value!r}.')
  if 'rope_freqs.weight' in contents.tensors:
    raise ValueError(f"{contents.path} scales its rotations by the tensor rope_freqs.weight (Llama 3.1 and later), "
                     f"which is not implemented; load the checkpoint's safetensors with mtjax.interop.hf.load.")


def _rows(module: Llama) -> list[Row]:
  heads = {'attn_q': module.heads, 'attn_k': module.kv_heads or module.heads}
  rows = []
  for row in _llama.FAMILY.rows(module):
    layer, part, leaf = re.fullmatch(r'(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)', row.theirs).groups()
    name = NAMES[part]
    transform = _pairs(heads[name], row.transform) if name in heads else row.transform
    rows.append(Row(f'blk.{layer}.{name}.{leaf}' if layer else f'{name}.{leaf}', row.ours, transform))
  return rows


def _pairs(heads: int, inner: Transform) -> Transform:
  """Within each head, rows in neighbouring pairs <-> rows in two halves; `inner` then makes them ours."""
  def swap(x, first, second):
    return x.reshape(heads, first, second, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

  return Transform(lambda x: inner.load(swap(x, x.shape[0] // heads // 2, 2)),
                   lambda x: (lambda y: swap(y, 2, y.shape[0] // heads // 2))(inner.save(x)))


FAMILY = _llama.FAMILY._replace(base='', rows=_rows, twins=lambda config: {}, ignored=())
