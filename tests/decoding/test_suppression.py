"""Tokens that are not to be written: greedily, drawn, in beams; heads in place of a model's own logits; what is refused."""
import doctest
import functools

import jax
import numpy as np
import pytest

from mtjax import encoders, heads
from mtjax.decoding import Generation, beam_search, generate, suppression
from mtjax.decoding.suppression import Suppressed, read_suppressed

MODEL = encoders.T5(buckets=4, max_distance=5, vocab_size=12, width=8, heads=2, depth=1, hidden=12)
INPUTS = np.array([[5, 6, 7], [8, 0, 0], [3, 4, 0]], np.int32)
N = 4


@functools.cache
def params():
  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), (INPUTS, INPUTS))['params']
  return jax.tree.map(lambda x: rng.normal(scale=0.7, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def forward():
  return jax.jit(lambda targets: jax.nn.log_softmax(MODEL.apply({'params': params()}, (INPUTS, targets)).aux['logits']))


def run(**how):
  return jax.device_get(generate(MODEL, params(), INPUTS, max_new_tokens=N, **how))


def greedy(always=(), first=()):
  """By full forwards: tokens [3, N] and their summed log-probabilities under the model."""
  tokens, scores = np.zeros((3, N), np.int32), np.zeros(3)
  for i in range(N):
    p = np.array(forward()(tokens))[:, i]
    allowed = p.copy()
    allowed[:, [*always, *(first if i == 0 else ())]] = -np.inf
    tokens[:, i] = allowed.argmax(axis=1)
    scores += p[np.arange(3), tokens[:, i]]
  return tokens, scores


def test_what_is_suppressed_is_not_written_and_the_next_best_is():
  free = run().tokens
  always, first = (int(free[0, 1]),), tuple(int(t) for t in set(free[:, 0]))
  for how in (dict(always=always), dict(first=first), dict(always=always, first=first)):
    got = run(suppress_tokens=how.get('always', ()), begin_suppress_tokens=how.get('first', ()))
    tokens, scores = greedy(**how)
    np.testing.assert_array_equal(got.tokens, tokens)
    np.testing.assert_allclose(got.scores, scores, rtol=1e-4)        # the same sums in another order
  np.testing.assert_array_equal(free, greedy()[0])


def test_neither_sampling_nor_beams_write_it():
  always, first = (1, 2, 3, 4, 5, 6, 7), (8, 9)
  how = dict(suppress_tokens=always, begin_suppress_tokens=first)
  drawn = run(method='sample', rng=jax.random.key(0), temperature=5.0, **how).tokens
  assert not np.isin(drawn, always).any() and not np.isin(drawn[:, 0], first).any() and np.isin(drawn, first).any()
  one = run(method='beam', num_beams=1, length_penalty=0.0, **how)
  tokens, scores = greedy(always, first)
  np.testing.assert_array_equal(one.tokens, tokens)
  np.testing.assert_allclose(one.scores, scores, rtol=1e-4)


def test_beams_pass_over_it_by_hand():
  # log p of tokens 0, 1, 2 is the same at each step; 2 ends. Without token 0 the best is 2 at once, or 1 first.
  table = np.log(np.array([[0.6, 0.1, 0.3]], np.float32))

  def step(state, tokens):
    return np.broadcast_to(table, (len(tokens), 3)), state

  def best(suppressed):
    tokens, _, scores = beam_search(step, table, {}, num_beams=2, max_new_tokens=2, length_penalty=0.0,
                                    early_stopping='never', stop_tokens=(2,), pad_id=9, suppressed=suppressed)
    return tokens[0].tolist(), float(np.exp(scores[0]))

  assert best(None) == ([0, 0], pytest.approx(0.36, rel=1e-5))
  assert best(Suppressed((0,), ())) == ([2, 9], pytest.approx(0.3, rel=1e-5))
  assert best(Suppressed((0,), (2,))) == ([1, 2], pytest.approx(0.03, rel=1e-5))


def test_a_head_makes_the_logits():
  tied = heads.LanguageModel(vocab_size=12, tie=True)
  np.testing.assert_array_equal(run(head=tied).tokens, run().tokens)
  own = heads.LanguageModel(vocab_size=12)
  kernel = np.zeros((8, 12), np.float32)
  kernel[:, 4] = np.array([1, -1, 2, -2, 1, 3, -1, 1])               # tokens 4 and 5 alone, by the sign of a sum
  kernel[:, 5] = -kernel[:, 4]
  got = run(head=own, head_params={'out': {'kernel': kernel}}).tokens
  assert np.isin(got, (4, 5)).all()
  features = MODEL.apply({'params': params()}, (INPUTS, got)).tokens
  np.testing.assert_array_equal(np.where(features @ kernel[:, 4] > 0, 4, 5), got)


def test_examples():
  failed, tried = doctest.testmod(suppression, extraglobs={'jnp': jax.numpy})
  assert tried and not failed


def test_errors():
  assert read_suppressed(3, 'suppress_tokens', 12) == (3,) and read_suppressed(None, 'x', None) == ()
  with pytest.raises(ValueError, match=r'suppress_tokens with 12; allowed are tokens, 0 … 11'):
    run(suppress_tokens=(1, 12))
  with pytest.raises(ValueError, match='begin_suppress_tokens with -1'):
    run(begin_suppress_tokens=-1)
  for how, words in ((dict(max_new_tokens=0), 'max_new_tokens=0; allowed is an integer >= 1'),
                     (dict(limit=0), 'limit=0; allowed is an integer >= 1 or None'),
                     (dict(prefix=-1), 'prefix=-1'), (dict(prefix=1, prompts='p'), 'allowed is one of the two'),
                     (dict(options={'top_k': 3}), "Unknown config key 'generation.top_k'")):
    with pytest.raises(ValueError, match=words):
      Generation(None, **{'max_new_tokens': 3, **how})
