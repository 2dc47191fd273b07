"""Generation: greedy by full forwards, rows alone and in a batch, limits of sampling, beams by brute force, no recompiling."""
import doctest
import functools
import itertools
import sys

import jax
import numpy as np
import pytest

from mtjax import encoders
from mtjax.context import Ctx
from mtjax.decoding import beam_search, generate, sample

SMALL = dict(vocab_size=12, width=8, heads=2, depth=1, hidden=12)
MODELS = {
  'gpt2': encoders.GPT2(max_length=12, **SMALL),
  'llama': encoders.Llama(kv_heads=1, pad_id=0, rope_scaling={'rope_type': 'linear', 'factor': 2.0}, **SMALL),
  'mamba': encoders.Mamba(vocab_size=12, width=8, depth=1, state_size=3, logits=True),
  't5': encoders.T5(buckets=4, max_distance=5, **SMALL),
  'whisper': encoders.Whisper(mels=3, frames=4, max_length=12, start_id=2, pad_id=0, **SMALL),
}
PROMPTS = [[5, 6, 7], [8], [3, 4]]
PADDED = np.array([[5, 6, 7], [8, 0, 0], [3, 4, 0]], np.int32)
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
SOUND = np.random.default_rng(2).normal(size=(3, 8, 3)).astype(np.float32)
N = 5


@functools.cache
def params(name):
  rng = np.random.default_rng(3)
  inputs = {'t5': (PADDED, PADDED), 'whisper': (SOUND, PADDED)}.get(name, PADDED)
  shapes = jax.eval_shape(MODELS[name].init, jax.random.key(0), inputs)['params']
  return jax.tree.map(lambda x: rng.normal(scale=0.7, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def forward(name):
  """(row of the inputs, tokens [1, 8]) -> log-probabilities of the token behind each."""
  module = MODELS[name]

  def run(params, inputs, tokens):
    inputs = tokens if inputs is None else (inputs, tokens)
    return jax.nn.log_softmax(module.apply({'params': params}, inputs).aux['logits'][0])

  return jax.jit(run)


def log_p(name, row, new):
  """log p(. | the prompt of this row, new)."""
  begun = [] if name in ('t5', 'whisper') else PROMPTS[row]
  read = np.full((1, 9), 1, np.int32)                           # what stands behind is not seen
  read[0, : len(begun) + len(new)] = [*begun, *new]
  inputs = {'t5': PADDED[row: row + 1], 'whisper': SOUND[row: row + 1]}.get(name)
  # An encoder-decoder is given what it is to write, and reads it one later.
  return np.asarray(forward(name)(params(name), inputs, read))[len(begun) + len(new) - (inputs is None)]


def prompts(name, rows=slice(None)):
  return SOUND[rows] if name == 'whisper' else PROMPTS[rows]


def run(name, rows=slice(None), **how):
  return jax.device_get(generate(MODELS[name], params(name), prompts(name, rows), **{'max_new_tokens': N, **how}))


@functools.cache
def greedy_by_full_forwards(name, row, stop):
  new, score = [], 0.0
  while len(new) < N and not (new and new[-1] == stop):
    p = log_p(name, row, new)
    new.append(int(p.argmax()))
    score += p.max()
  return new, score


@pytest.mark.parametrize('name', MODELS)
def test_greedy_is_the_argmax_of_full_forwards(name):
  stop = greedy_by_full_forwards(name, 0, None)[0][2]           # one that does come up
  got = run(name, stop_tokens=stop)
  for row in range(3):
    new, score = greedy_by_full_forwards(name, row, stop)
    assert got.tokens[row].tolist() == new + [0] * (N - len(new))
    assert got.lengths[row] == len(new)
    np.testing.assert_allclose(got.scores[row], score, rtol=1e-4)       # the same sums in another order
  assert got.lengths[0] <= 3


@pytest.mark.parametrize('name, method', [('gpt2', 'greedy'), ('mamba', 'beam'), ('t5', 'beam'), ('llama', 'sample')])
def test_a_row_is_the_same_alone_and_in_a_batch(name, method):
  how = dict(method=method, stop_tokens=(3, 4), rng=jax.random.key(1) if method == 'sample' else None)
  rows = range(1) if method == 'sample' else range(3)           # a row's draws go by its place in the batch
  batch = run(name, **how)
  for row in rows:
    alone = generate(MODELS[name], params(name), PADDED[[row]], mask=MASK[[row]], max_new_tokens=N, **how)
    assert alone.tokens[0].tolist() == batch.tokens[row].tolist() and alone.lengths[0] == batch.lengths[row]
    np.testing.assert_allclose(alone.scores[0], batch.scores[row], rtol=1e-4)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_masks_on_either_side_say_what_lists_of_lists_say(side):
  tokens = PADDED if side == 'right' else np.array([[5, 6, 7], [9, 9, 8], [9, 3, 4]])
  got = generate(MODELS['gpt2'], params('gpt2'), tokens, mask=MASK if side == 'right' else MASK[:, ::-1], max_new_tokens=N)
  np.testing.assert_array_equal(got.tokens, run('gpt2').tokens)


def test_limits_of_sampling_are_greedy():
  keys, logits = jax.random.split(jax.random.key(0), 50), np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
  logits[0] = 1.0                                               # equal logits are ranked by their ids
  for limit in (dict(top_k=1), dict(top_p=1e-6), dict(top_k=3, top_p=1e-6), dict(top_k=1, temperature=3.0)):
    np.testing.assert_array_equal(sample(keys, logits, **limit), logits.argmax(axis=1))
  np.testing.assert_array_equal(sample(keys[1:], logits[1:], temperature=1e-6), logits[1:].argmax(axis=1))
  expected, got = run('gpt2'), run('gpt2', method='sample', rng=jax.random.key(0), top_k=1)
  np.testing.assert_array_equal(got.tokens, expected.tokens)
  np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)     # under the model itself, not what was cut


def test_what_is_drawn_is_what_is_kept_in_its_proportions():
  p = np.array([0.1, 0.4, 0.2, 0.3])
  keys = jax.random.split(jax.random.key(0), 4000)
  logits = np.broadcast_to(np.log(p), (4000, 4)).astype(np.float32)

  def shares(**how):
    return np.bincount(np.asarray(sample(keys, logits, **how)), minlength=4) / 4000

  hot = p**0.5 / (p**0.5).sum()
  for how, expected in ((dict(), p), (dict(temperature=2.0), hot), (dict(top_k=2), [0, 4 / 7, 0, 3 / 7]),
                        (dict(top_p=0.69), [0, 4 / 7, 0, 3 / 7]), (dict(top_p=0.71), [0, 4 / 9, 2 / 9, 3 / 9]),
                        (dict(top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7])):
    np.testing.assert_allclose(shares(**how), expected, atol=0.03)      # 4 standard errors of 4000 draws


def test_one_beam_is_greedy():
  stop = greedy_by_full_forwards('llama', 0, None)[0][2]
  expected = run('llama', stop_tokens=stop)
  for penalty in (0.0, 1.0):
    got = run('llama', method='beam', num_beams=1, stop_tokens=stop, length_penalty=penalty, early_stopping='never')
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    np.testing.assert_allclose(got.scores, expected.scores / expected.lengths**penalty, rtol=1e-4)


@pytest.mark.parametrize('penalty', [0.0, 1.0, 2.0, -1.0])
def test_enough_beams_find_the_best_sequence_of_all(penalty):
  vocabulary, length, stop, rng = 3, 3, 2, np.random.default_rng(5)
  table = jax.nn.log_softmax(rng.normal(scale=2, size=(2, 40, vocabulary)))       # by the sequence so far, in base 3

  def step(state, tokens):  # the cache is the sequence so far, and its row
    row, code = state['row'], state['code'] * vocabulary + tokens + 1
    return table[row, code], {'row': row, 'code': code}

  start = {'row': np.arange(2), 'code': np.zeros(2, np.int32)}
  tokens, lengths, scores = beam_search(
    step, table[:, 0], start, num_beams=27, max_new_tokens=length, length_penalty=penalty, early_stopping='never',
    stop_tokens=(stop,), pad_id=9)
  for row in range(2):
    found = {}
    for n in range(1, length + 1):
      for sequence in itertools.product(range(vocabulary), repeat=n):
        if stop not in sequence[:-1] and (sequence[-1] == stop or n == length):
          code, total = 0, 0.0
          for token in sequence:
            total += float(table[row, code, token])
            code = code * vocabulary + token + 1
          found[sequence] = total / n**penalty
    best = max(found, key=found.get)
    assert tuple(tokens[row].tolist()) == best + (9,) * (length - len(best)) and lengths[row] == len(best)
    np.testing.assert_allclose(scores[row], found[best], rtol=1e-5)


def test_the_same_shapes_compile_once():
  compiled = sys.modules[generate.__module__]._generate       # the package gives out the function of that name
  how = dict(method='sample', top_k=4, stop_tokens=(3,))
  run('gpt2', rng=jax.random.key(0), temperature=0.7, top_p=0.9, **how)
  before = compiled._cache_size()
  other = generate(MODELS['gpt2'].clone(), params('gpt2'), PROMPTS, max_new_tokens=N, rng=jax.random.key(1),
                   temperature=1.3, top_p=0.5, **how)
  assert compiled._cache_size() == before and other.tokens.shape == (3, N)


def test_what_the_decoder_begins_with():
  whole = run('whisper')
  begun = np.concatenate([np.full((3, 1), 2), whole.tokens[:, :2]], axis=1)
  got = generate(MODELS['whisper'], params('whisper'), SOUND, decoder_prompts=begun, max_new_tokens=3)
  np.testing.assert_array_equal(got.tokens, whole.tokens[:, 2:])


def test_examples():
  failed, tried = doctest.testmod(sys.modules[sample.__module__])
  assert tried and not failed


ERRORS = [
  (dict(method='beams'), "method='beams'. Did you mean 'beam'"),
  (dict(max_new_tokens=0), 'max_new_tokens=0; allowed is an integer >= 1'),
  (dict(method='sample'), "method='sample' and no rng"),
  (dict(rng=jax.random.key(0)), "method='greedy' and an rng"),
  (dict(top_k=3), "top_k=3 and top_p=None with method='greedy'"),
  (dict(method='sample', top_p=0), 'top_p=0; allowed is 0 < top_p <= 1'),
  (dict(method='sample', temperature=0), 'temperature=0; allowed is a number > 0'),
  (dict(method='beam', num_beams=0), 'num_beams=0; allowed is an integer >= 1'),
  (dict(method='beam', early_stopping='ever'), "early_stopping='ever'; allowed are False, True and 'never'"),
  (dict(max_new_tokens=11), 'max_new_tokens=11 behind 3 tokens, but GPT2 has max_length=12; allowed are 10 new tokens'),
  (dict(prompts=[5, 6]), r'prompts of shape \[2\]; allowed are \[B, P\]'),
  (dict(prompts=[[5], []]), r'prompts without a token, in the rows \[1\]'),
  (dict(prompts=PADDED, mask=np.ones((3, 2))), r'mask of shape \[3, 2\]; allowed is that of the prompts, \[3, 3\]'),
  (dict(decoder_prompts=[1]), 'decoder_prompts, but GPT2 has no encoder'),
  (dict(model=MODELS['t5'], decoder_prompts=[[1, 2]]), r"decoder_prompts of shape \[1, 2\]; allowed are .* B = 3"),
  (dict(ctx=Ctx(segment_ids=PADDED)), 'ctx with mask or segment_ids'),
  (dict(model=encoders.BERT()), "BERT can't generate"),
  (dict(model=encoders.T5(decoder_depth=0)), "T5 can't generate"),
  (dict(model=MODELS['gpt2'].clone(head=None)), 'GPT2 has no logits to generate from'),
]


@pytest.mark.parametrize('how, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(how, text):
  with pytest.raises(ValueError, match=text):
    generate(**{'model': MODELS['gpt2'], 'params': params('gpt2'), 'prompts': PROMPTS, 'max_new_tokens': 2, **how})
