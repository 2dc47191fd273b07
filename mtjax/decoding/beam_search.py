"""Beam search: the K most probable beginnings are gone on with; what has ended is kept apart.

Sutskever, Vinyals & Le, "Sequence to Sequence Learning with Neural Networks", NeurIPS 2014,
https://arxiv.org/abs/1409.3215; the penalty of length, without its constants: Wu et al., "Google's Neural Machine
Translation System", 2016, equation 14, https://arxiv.org/abs/1609.08144.

    score(y_1 … y_n) = sum_i log p(y_i | y_<i) / n^length_penalty

Each step ranks all extensions of all beams by their summed log p. Those that end (in a stop token, or at N tokens) and
are among the first K are hypotheses, of which the K best by score are kept; the first K that don't end are the beams of
the next step. A row is settled, and changes no more, when K hypotheses are kept and the best beam b can't beat the
worst of them:

    sum log p(b) / m^length_penalty <= the worst score,      m = its length so far; early_stopping='never': N if
                                                             length_penalty > 0, which no extension can beat
    early_stopping=True: whatever the beams are

This is what Hugging Face's `generate` does. A single beam stops at its first hypothesis: greedy decoding.
Shapes: B rows, K beams, V tokens, N new tokens, C candidates.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.decoding.suppression import Suppressed


class _Kept(NamedTuple):
  """Sequences and their scores: tokens [B, K, N], lengths [B, K], scores [B, K]; -inf where there is none yet."""
  tokens: jax.Array
  lengths: jax.Array
  scores: jax.Array

  def take(self, index: jax.Array) -> '_Kept':
    """The entries [B, n] along K."""
    return _Kept(*(jax.vmap(lambda x, i: x[i])(x, index) for x in self))


def beam_search(step: Callable[[Any, jax.Array], tuple[jax.Array, Any]], logits: jax.Array, cache: Any, *,
                num_beams: int, max_new_tokens: int, length_penalty: jax.Array | float = 1.0,
                early_stopping: bool | str = False, stop_tokens: tuple[int, ...] = (), pad_id: int = 0,
                suppressed: Suppressed | None = None,
                ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Searches from one prompt a row.

  Args:
    step: (cache, tokens [B K]) -> (logits [B K, V], cache), with the rows of a batch's row side by side.
    logits: [B, V], of the first new token.
    cache: what the prompts left, a tree of leaves [B, …], or of nodes with a method gather(rows) of their own.
    num_beams: K.
    max_new_tokens: N.
    length_penalty: above 0 it favours long sequences.
    early_stopping: False, True or 'never'.
    stop_tokens: the tokens that end a sequence.
    pad_id: what stands behind its end.
    suppressed: tokens that are not written; None = all may be.

  Returns:
    (tokens [B, N], lengths [B], scores [B]) of the best hypotheses; the stop token is one of the tokens.
  """
  rows, vocabulary = logits.shape
  beams, length = num_beams, max_new_tokens
  early_stopping = early_stopping if beams > 1 else True
  candidates = min(max(2, 1 + len(stop_tokens)) * beams, beams * vocabulary)
  penalty = jnp.asarray(length_penalty, jnp.float32)

  def power(n):
    return jnp.asarray(n, jnp.float32) ** penalty

  def extend(i, logits, running, done, opened):
    """One step of the search: logits [B, K, V] of token i -> (beam [B, K] each goes on from, running, done, opened)."""
    log_p = jax.nn.log_softmax(logits)
    total = running.scores[..., None] + (log_p if suppressed is None else suppressed(i, log_p))
    scores, index = jax.lax.top_k(total.reshape(rows, -1), candidates)
    beam, token = index // vocabulary, index % vocabulary
    new = running.take(beam)
    new = _Kept(new.tokens.at[:, :, i].set(token), jnp.full_like(beam, i + 1), scores)
    ends = any_of(token, stop_tokens) | (i == length - 1)
    counts = ends & (jnp.arange(candidates) < beams)[None] & opened[:, None]
    ended = new._replace(scores=jnp.where(counts, scores / power(i + 1), -jnp.inf))
    both = _Kept(*(jnp.concatenate(pair, axis=1) for pair in zip(done, ended)))
    done = both.take(jax.lax.top_k(both.scores, beams)[1])
    going = jnp.where(ends, -jnp.inf, scores)
    best = jax.lax.top_k(going, beams)[1]
    running = new._replace(scores=going).take(best)
    at_most = jnp.where((early_stopping == 'never') & (penalty > 0), length, i + 1)
    worst = done.scores.min(axis=1)
    opened &= running.scores[:, 0] / power(at_most) > worst
    if early_stopping is True:
      opened &= jnp.isneginf(worst)
    return jnp.take_along_axis(beam, best, axis=1), running, done, opened

  def body(state):
    i, cache, running, done, opened = state
    logits, cache = step(cache, running.tokens[:, :, i - 1].reshape(-1))
    logits = logits.astype(jnp.float32).reshape(rows, beams, vocabulary)
    beam, running, done, opened = extend(i, logits, running, done, opened)
    return i + 1, _take_rows(cache, (beam + beams * jnp.arange(rows)[:, None]).reshape(-1)), running, done, opened

  empty = _Kept(jnp.full((rows, beams, length), pad_id, jnp.int32), jnp.zeros((rows, beams), jnp.int32),
                jnp.full((rows, beams), -jnp.inf))
  running = empty._replace(scores=empty.scores.at[:, 0].set(0.0))
  first = jnp.broadcast_to(logits.astype(jnp.float32)[:, None], (rows, beams, vocabulary))
  _, running, done, opened = extend(0, first, running, empty, jnp.ones(rows, bool))
  cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), cache)
  state = jax.lax.while_loop(lambda state: (state[0] < length) & state[4].any(), body,
                             (jnp.int32(1), cache, running, done, opened))
  return tuple(x[:, 0] for x in state[3])


def _take_rows(cache: Any, rows: jax.Array) -> Any:
  own = lambda x: hasattr(x, 'gather')  # noqa: E731
  return jax.tree.map(lambda x: x.gather(rows) if own(x) else x[rows], cache, is_leaf=own)


def any_of(tokens: jax.Array, stop_tokens: tuple[int, ...]) -> jax.Array:
  """bool, of the shape of `tokens`: those that are stop tokens."""
  return sum((tokens == stop for stop in stop_tokens), jnp.zeros(tokens.shape, bool))
