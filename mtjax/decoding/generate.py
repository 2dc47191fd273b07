"""Generation: a model writes token after token behind a prompt, in one compiled loop with a cache.

    y_i = argmax p(. | prompt, y_<i)                    'greedy'
    y_i ~ p(. | prompt, y_<i), tempered and cut         'sample', see `mtjax.decoding.sampling`
    y = argmax sum_i log p(y_i | …) / n^length_penalty  'beam', approximately, see `mtjax.decoding.beam_search`

until a stop token or N tokens. Models of three kinds are served, by the methods they have (`mtjax.encoders`):

    decoders             init_cache(rows, length),  decode(tokens, cache, mask=…)      GPT2, Llama
    encoder-decoders     start(inputs, length),     decode(tokens, cache, mask=…)      T5, Whisper
    state spaces         prefill(tokens),           decode(tokens, state)              Mamba, Mamba2

A second call with the same model, shapes and settings compiles nothing; temperature, top_p and length_penalty are
arguments of the compiled program. Shapes: B rows, P tokens of the prompts, N new tokens, V vocabulary.
"""
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.config import did_you_mean
from mtjax.context import Ctx
from mtjax.decoding.beam_search import any_of, beam_search
from mtjax.decoding.sampling import sample
from mtjax.decoding.suppression import Suppressed, read_suppressed

METHODS = ('greedy', 'sample', 'beam')


class Generated(NamedTuple):
  """What `generate` gives.

  Attributes:
    tokens: [B, N] int32, the new tokens, the stop token included; padding behind them.
    lengths: [B] int32, how many they are.
    scores: [B] float32, their log-probability under the model; with 'beam', divided by n^length_penalty.
  """
  tokens: jax.Array
  lengths: jax.Array
  scores: jax.Array


class _Settings(NamedTuple):
  """What the compiled program is made for."""
  max_new_tokens: int
  method: str
  top_k: int | None
  num_beams: int
  early_stopping: bool | str
  stop_tokens: tuple[int, ...]
  pad_id: int
  suppress_tokens: tuple[int, ...]
  begin_suppress_tokens: tuple[int, ...]


def generate(model: nn.Module, params: Any, prompts: Any, *, max_new_tokens: int, method: str = 'greedy',
             temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, num_beams: int = 4,
             length_penalty: float = 1.0, early_stopping: bool | str = False, stop_tokens: Sequence[int] | int = (),
             rng: jax.Array | None = None, mask: Any = None, decoder_prompts: Any = None,
             pad_id: int | None = None, suppress_tokens: Sequence[int] = (), begin_suppress_tokens: Sequence[int] = (),
             head: nn.Module | None = None, head_params: Any = None, ctx: Ctx | None = None) -> Generated:
  """Writes behind prompts.

  Args:
    model: a decoder or an encoder-decoder, with logits of its own or with `head`.
    params: its parameters.
    prompts: tokens [B, P] int, or a list of lists of tokens, of any lengths; of an encoder-decoder, the inputs of the
      encoder (tokens, or a spectrogram).
    max_new_tokens: N.
    method: 'greedy', 'sample' or 'beam'.
    temperature: of sampling, > 0.
    top_k: of sampling; None = all tokens.
    top_p: of sampling, in (0, 1]; None = all tokens.
    num_beams: of the beam search.
    length_penalty: of the beam search; above 0 it favours long texts.
    early_stopping: of the beam search: False, True or 'never', see there.
    stop_tokens: a row ends with one of these.
    rng: a random key, for sampling.
    mask: [B, P] bool or 0/1, the tokens of the prompts that are not padding, on either side; None = what the model
      takes for padding in inputs of an encoder, and none in the prompts of a decoder.
    decoder_prompts: what the decoder of an encoder-decoder begins with, [P'] or [B, P'] int; None = model.start_id.
    pad_id: what stands behind the end of a text; None = that of the model, or 0.
    suppress_tokens: tokens that are not written, see `mtjax.decoding.suppression`.
    begin_suppress_tokens: tokens that are not written first.
    head: what makes logits [B, L, V] of the features (`mtjax.heads.LanguageModel`); None = the model's own.
    head_params: its parameters.
    ctx: the rows' tasks, handed on to the model.

  Returns:
    Generated(tokens [B, N], lengths [B], scores [B]).

  Raises ValueError for a value that is not allowed, and for a model that can't generate.
  """
  prompts, mask = _read_prompts(prompts, mask)
  stop_tokens = (stop_tokens,) if isinstance(stop_tokens, numbers.Integral) else tuple(int(t) for t in stop_tokens)
  pad_id = next(i for i in (pad_id, getattr(model, 'pad_id', None), 0) if i is not None)
  settings = _Settings(max_new_tokens, method, top_k, num_beams if method == 'beam' else 1,
                       early_stopping if method == 'beam' else False, stop_tokens, pad_id,
                       *(read_suppressed(tokens, field, getattr(model, 'vocab_size', None))
                         for field, tokens in (('suppress_tokens', suppress_tokens),
                                               ('begin_suppress_tokens', begin_suppress_tokens))))
  _check(settings, temperature, top_p, length_penalty, rng, num_beams)
  if ctx is not None and (ctx.segment_ids is not None or ctx.mask is not None):
    raise ValueError('generate has a ctx with mask or segment_ids; allowed are tasks alone. Padding is said by mask=….')
  pair = is_pair(model)
  if decoder_prompts is not None and not pair:
    raise ValueError(f'generate has decoder_prompts, but {type(model).__name__} has no encoder; its prompts are all '
                     f'that it reads.')
  begun = _begin(model.start_id if decoder_prompts is None else decoder_prompts, len(prompts)) if pair else None
  _check_room(model, prompts if begun is None else begun, None if pair else mask, max_new_tokens)
  values = {'temperature': jnp.float32(temperature), 'top_p': None if top_p is None else jnp.float32(top_p),
            'length_penalty': jnp.float32(length_penalty)}
  return _generate(params, head_params or {}, prompts, mask, begun, rng, values, ctx, model=model, head=head,
                   settings=settings)


@functools.partial(jax.jit, static_argnames=('model', 'head', 'settings'))
def _generate(params, head_params, prompts, mask, begun, rng, values, ctx, *, model, head, settings) -> Generated:
  variables, rows, count = {'params': params}, len(prompts), settings.max_new_tokens
  suppressed = Suppressed(settings.suppress_tokens, settings.begin_suppress_tokens)

  def decode(cache, tokens, mask, ctx):
    if hasattr(model, 'prefill'):
      features, cache = (
        model.apply(variables, tokens, cache, ctx=ctx, method='decode') if cache is not None else
        model.apply(variables, tokens, ctx=(ctx or Ctx()).replace(segment_ids=mask.astype(jnp.int32)),
                    method='prefill'))
    else:
      features, cache = model.apply(variables, tokens, cache, mask=mask, ctx=ctx, method='decode')
    if head is not None:
      return head.apply({'params': head_params}, features), cache
    if 'logits' not in features.aux:
      raise ValueError(f'{type(model).__name__} has no logits to generate from; give it a head.')
    return features.aux['logits'], cache

  if begun is not None:
    inputs = prompts if mask is None else {'tokens': prompts, 'mask': mask}
    cache = model.apply(variables, inputs, begun.shape[1] + count - 1, ctx=ctx, method='start')
    read, kept = begun, jnp.ones(begun.shape, bool)
  else:
    read, kept = prompts, jnp.ones(prompts.shape, bool) if mask is None else mask
    cache = None if hasattr(model, 'prefill') else model.init_cache(rows, prompts.shape[1] + count - 1)
  logits, cache = decode(cache, read, kept, ctx)
  last = kept.shape[1] - 1 - jnp.argmax(kept[:, ::-1], axis=1)
  logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)

  if settings.method == 'beam':
    own = jax.tree.map(lambda x: jnp.repeat(x, settings.num_beams, axis=0), ctx)

    def step(cache, tokens):
      logits, cache = decode(cache, tokens[:, None], jnp.ones((len(tokens), 1), bool), own)
      return logits[:, 0], cache

    return Generated(*beam_search(
      step, logits, cache, num_beams=settings.num_beams, max_new_tokens=count, early_stopping=settings.early_stopping,
      length_penalty=values['length_penalty'], stop_tokens=settings.stop_tokens, pad_id=settings.pad_id,
      suppressed=suppressed))

  def choose(i, logits, state):
    """State with token i."""
    alive, out = state
    allowed = suppressed(i, logits)
    if settings.method == 'greedy':
      token = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
      keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(rng, row), i))(jnp.arange(rows))
      token = sample(keys, allowed, temperature=values['temperature'], top_k=settings.top_k, top_p=values['top_p'])
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
    out = Generated(out.tokens.at[:, i].set(jnp.where(alive, token, settings.pad_id)), out.lengths + alive,
                    out.scores + jnp.where(alive, log_p, 0.0))
    return alive & ~any_of(token, settings.stop_tokens), out

  def body(carry):
    i, cache, alive, out = carry
    # A row that has ended writes nothing to its cache.
    logits, cache = decode(cache, out.tokens[:, i - 1][:, None], alive[:, None], ctx)
    return i + 1, cache, *choose(i, logits[:, 0].astype(jnp.float32), (alive, out))

  empty = Generated(jnp.full((rows, count), settings.pad_id, jnp.int32), jnp.zeros(rows, jnp.int32), jnp.zeros(rows))
  state = choose(0, logits, (jnp.ones(rows, bool), empty))
  carry = jax.lax.while_loop(lambda carry: (carry[0] < count) & carry[2].any(), body, (jnp.int32(1), cache, *state))
  return carry[3]


def _read_prompts(prompts: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
  """Prompts and mask as arrays; a list of lists is padded on the right."""
  if isinstance(prompts, list | tuple) and len({np.shape(row) for row in prompts}) > 1:
    if mask is not None:
      raise ValueError('generate has prompts of different lengths and a mask; the lengths say what is padding.')
    lengths = [len(row) for row in prompts]
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    padded = np.zeros(mask.shape, np.int32)
    padded[mask] = np.concatenate([np.asarray(row, np.int32) for row in prompts])
    prompts = padded
  prompts = jnp.asarray(prompts)
  if prompts.ndim < 2 or not prompts.size:
    raise ValueError(f'generate has prompts of shape {list(prompts.shape)}; allowed are [B, P], a row for each prompt, '
                     f'none of them empty.')
  if mask is None:
    return prompts, None
  if jnp.shape(mask) != prompts.shape[:2]:
    raise ValueError(f'generate has a mask of shape {list(jnp.shape(mask))}; allowed is that of the prompts, '
                     f'{list(prompts.shape[:2])}.')
  if not isinstance(mask, jax.core.Tracer) and not np.asarray(mask).any(axis=1).all():
    empty = np.flatnonzero(~np.asarray(mask).any(axis=1))
    raise ValueError(f'generate has prompts without a token, in the rows {empty.tolist()}; allowed is at least one.')
  return prompts, jnp.asarray(mask).astype(bool)


def _begin(tokens: Any, rows: int) -> jax.Array:
  """What a decoder begins with, one token, [P'] or [B, P'] -> [B, P'] int32."""
  tokens = jnp.atleast_1d(jnp.asarray(tokens))
  if tokens.ndim > 2 or not tokens.size or (tokens.ndim == 2 and len(tokens) != rows):
    raise ValueError(f"generate has decoder_prompts of shape {list(tokens.shape)}; allowed are [P'] and [B, P'], with "
                     f'B = {rows} and P\' >= 1.')
  return jnp.broadcast_to(tokens.reshape(-1, tokens.shape[-1]), (rows, tokens.shape[-1])).astype(jnp.int32)


def is_pair(model: nn.Module) -> bool:
  """Whether a model has an encoder. Raises ValueError for one that can't generate."""
  has = [hasattr(model, name) for name in ('decode', 'start', 'init_cache', 'prefill')]
  if not has[0] or not any(has[1:]) or getattr(model, 'decoder_depth', None) == 0:
    raise ValueError(f'{type(model).__name__} can\'t generate: that takes the methods decode and init_cache (or start, '
                     f'with an encoder; or prefill), as GPT2, Llama, T5, Whisper and Mamba have.')
  return has[1]


def _check_room(model: nn.Module, read: jax.Array, mask: jax.Array | None, count: int) -> None:
  """Raises ValueError where the model has too few positions."""
  limit = getattr(model, 'max_length', None)
  if limit is None or isinstance(mask, jax.core.Tracer):
    return
  longest = read.shape[1] if mask is None else int(np.asarray(mask).sum(axis=1).max())
  if longest + count - 1 > limit:
    raise ValueError(f'generate has max_new_tokens={count} behind {longest} tokens, but {type(model).__name__} has '
                     f'max_length={limit}; allowed are {max(limit + 1 - longest, 0)} new tokens.')


def _check(settings: _Settings, temperature, top_p, length_penalty, rng, num_beams) -> None:
  method = settings.method
  if method not in METHODS:
    raise ValueError(f'generate has method={method!r}. {did_you_mean(str(method), METHODS)}')
  for name, value in (('max_new_tokens', settings.max_new_tokens), ('top_k', settings.top_k), ('num_beams', num_beams)):
    optional = name == 'top_k'
    if not (optional and value is None) and (isinstance(value, bool) or not isinstance(value, numbers.Integral)
                                             or value < 1):
      raise ValueError(f'generate has {name}={value!r}; allowed is an integer >= 1{" or None" if optional else ""}.')
  if not temperature > 0 or not math.isfinite(temperature):
    raise ValueError(f"generate has temperature={temperature!r}; allowed is a number > 0. The limit 0 is "
                     f"method='greedy'.")
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f'generate has top_p={top_p!r}; allowed is 0 < top_p <= 1, or None.')
  if not math.isfinite(length_penalty):
    raise ValueError(f'generate has length_penalty={length_penalty!r}; allowed is a finite number.')
  if settings.early_stopping not in (False, True, 'never'):
    raise ValueError(f"generate has early_stopping={settings.early_stopping!r}; allowed are False, True and 'never'.")
  if method != 'sample' and (settings.top_k is not None or top_p is not None):
    raise ValueError(f"generate has top_k={settings.top_k!r} and top_p={top_p!r} with method={method!r}; they belong "
                     f"to method='sample'.")
  if (method == 'sample') != (rng is not None):
    raise ValueError(f"generate has method={method!r} and {'no rng' if rng is None else 'an rng'}; allowed is an rng "
                     f"with 'sample' alone.")
