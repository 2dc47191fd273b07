"""Heads of tokens, pairs, items and survival times."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, experiment, heads, tree
from mtjax.context import Features

RNG = np.random.default_rng(0)
FEATURES = Features(tokens=RNG.normal(size=(2, 5, 3)).astype(np.float32), pooled=RNG.normal(size=(2, 3)).astype(np.float32),
                    mask=np.array([[True] * 5, [True, True, True, False, False]]),
                    aux={'logits': RNG.normal(size=(2, 5, 7)).astype(np.float32),
                         'text': RNG.normal(size=(2, 4)).astype(np.float32)})
HIDDEN = {'fc1/kernel': (3, 6), 'fc1/bias': (6,)}

# name: (head, shape of the outputs, kind, parameter shapes)
CASES = {
  'token_classification': (heads.TokenClassification(classes=4, hidden=[6]), (2, 5, 4), 'softmax',
                           HIDDEN | {'out/kernel': (6, 4), 'out/bias': (4,)}),
  'span': (heads.Span(hidden=(6,)), (2, 2, 5), 'softmax', HIDDEN | {'out/kernel': (6, 2), 'out/bias': (2,)}),
  'language_model': (heads.LanguageModel(vocab_size=7, hidden=(6,)), (2, 5, 7), 'softmax', HIDDEN | {'out/kernel': (6, 7)}),
  'tied': (heads.LanguageModel(vocab_size=7, tie=True), (2, 5, 7), 'softmax', {}),
  'contrastive': (heads.Contrastive(dims=4, hidden=(6,)), (2, 2), 'identity',
                  HIDDEN | {'out/kernel': (6, 4), 'log_scale': ()}),
  'two_towers': (heads.Contrastive(dims=4, other='text'), (2, 2), 'identity',
                 {'out/kernel': (3, 4), 'other/kernel': (4, 4), 'log_scale': ()}),
  'retrieval': (heads.Retrieval(items=9, dims=4), (2, 9), 'softmax', {'out/kernel': (3, 4), 'items/embedding': (9, 4)}),
  'survival': (heads.Survival(intervals=6), (2, 6), 'sigmoid', {'out/kernel': (3, 6), 'out/bias': (6,)}),
}


def draw(head):
  shapes = jax.eval_shape(head.init, jax.random.key(0), FEATURES).get('params', {})
  return {'params': jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), shapes)}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', CASES)
def test_outputs_and_parameters(name, dtype):
  head, outputs, kind, params = CASES[name]
  head = head.clone(dtype=dtype)
  with jax.numpy_dtype_promotion('strict'):
    variables = jax.eval_shape(head.init, jax.random.key(0), FEATURES)
    result = jax.eval_shape(lambda v: head.apply(v, FEATURES, None, train=True), variables)
  flat = tree.flatten(variables.get('params', {}))
  assert {path: leaf.shape for path, leaf in flat.items()} == params
  assert (result.shape, head.kind) == (outputs, kind)
  assert {leaf.dtype for leaf in (result, *flat.values())} == {jnp.dtype('float32')}
  assert head.default_loss in experiment.LOSSES and set(head.default_metrics) <= set(experiment.METRICS)


def test_tokens_are_read_one_by_one():
  head = heads.TokenClassification(classes=4)
  p = draw(head)
  expected = FEATURES.tokens @ p['params']['out']['kernel'] + p['params']['out']['bias']
  np.testing.assert_allclose(head.apply(p, FEATURES), expected, atol=1e-6)


def test_spans_avoid_padding():
  head = heads.Span()
  p = draw(head)
  logits = np.asarray(head.apply(p, FEATURES))
  expected = FEATURES.tokens @ p['params']['out']['kernel'] + p['params']['out']['bias']
  np.testing.assert_allclose(logits[0].T, expected[0], atol=1e-6)
  assert (logits[1, :, 3:] == -1e9).all() and (logits[1, :, :3] > -1e3).all()
  spans = np.asarray(heads.best_span(logits))
  assert (spans[:, 0] <= spans[:, 1]).all() and (spans[1] < 3).all()


def test_best_span_equals_a_loop():
  logits = RNG.normal(size=(6, 2, 7)).astype(np.float32)
  for longest in (2, None):
    pairs = [(s, e) for s in range(7) for e in range(s, min(7, s + (longest or 7)))]
    expected = [max(pairs, key=lambda pair, row=row: row[0, pair[0]] + row[1, pair[1]]) for row in logits]
    np.testing.assert_array_equal(heads.best_span(logits, longest), expected)


def test_tied_logits_are_the_encoders():
  encoder = encoders.Mamba(vocab_size=7, width=4, depth=1, state_size=2, logits=True)
  tokens = np.array([[1, 2, 3]])
  features = jax.jit(lambda key: encoder.init_with_output(key, tokens)[0])(jax.random.key(0))
  head = heads.LanguageModel(vocab_size=7, tie=True)
  np.testing.assert_array_equal(head.apply({}, features), features.aux['logits'])


def test_similarities_by_hand():
  x, y = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[0.0, 2.0], [5.0, 0.0]], np.float32)
  params = {'out': {'kernel': np.eye(2)}, 'other': {'kernel': np.eye(2)}, 'log_scale': np.float32(np.log(10))}
  got = heads.Contrastive(dims=2, other='text').apply({'params': params}, Features(pooled=x, aux={'text': y}))
  np.testing.assert_allclose(got, [[8, 6], [0, 10]], atol=1e-5)         # cosines over a temperature of 1/10
  params['log_scale'] = np.float32(50)
  got = heads.Contrastive(dims=2, other='text').apply({'params': params}, Features(pooled=x, aux={'text': y}))
  np.testing.assert_allclose(got, [[80, 60], [0, 100]], atol=1e-3)      # not colder than 1/100
  params.pop('other')
  got = heads.Contrastive(dims=2).apply({'params': params | {'log_scale': np.float32(0)}}, Features(pooled=x))
  np.testing.assert_allclose(got, [[1, 0.6], [0.6, 1]], atol=1e-6)
  assert (heads.Contrastive().default_loss, heads.Contrastive(other='text').default_loss) == ('sup_con', 'info_nce')


def test_the_temperature_starts_where_it_is_set():
  start = heads.Contrastive(dims=2, temperature=0.25).init(jax.random.key(0), FEATURES)['params']['log_scale']
  np.testing.assert_allclose(start, np.log(4), rtol=1e-6)


def test_items_rank_by_dot_products():
  params = {'out': {'kernel': np.eye(2)}, 'items': {'embedding': np.array([[1.0, 0], [0, 3], [-2, 1]], np.float32)}}
  features = Features(pooled=np.array([[3.0, 4.0]], np.float32))
  plain = heads.Retrieval(items=3, dims=2).apply({'params': params}, features)
  np.testing.assert_allclose(plain, [[3, 12, -2]])
  cosine = heads.Retrieval(items=3, dims=2, cosine=True, temperature=0.5).apply({'params': params}, features)
  np.testing.assert_allclose(cosine, [[1.2, 1.6, -0.8 / np.sqrt(5)]], rtol=1e-5)


def test_what_is_missing_is_named():
  for name, (head, *_) in CASES.items():
    field = 'tokens' if name in ('token_classification', 'span', 'language_model') else 'pooled'
    text = r"features.aux\['logits'\]" if name == 'tied' else f'{type(head).__name__} reads features.{field}'
    with pytest.raises(ValueError, match=text):
      jax.eval_shape(head.init, jax.random.key(0), Features(maps=[jnp.zeros((1, 2, 2, 3))]))
  with pytest.raises(ValueError, match=r"features.aux\['audio'\], which this encoder does not fill. It fills: logits, text"):
    jax.eval_shape(heads.Contrastive(other='audio').init, jax.random.key(0), FEATURES)
  with pytest.raises(ValueError, match=r"vocab_size=8, but features.aux\['logits'\] has shape \[2, 5, 7\]"):
    jax.eval_shape(heads.LanguageModel(vocab_size=8, tie=True).init, jax.random.key(0), FEATURES)


@pytest.mark.parametrize('make, text', [
  (lambda: heads.TokenClassification(classes=1), 'classes=1; allowed is an integer >= 2'),
  (lambda: heads.Span(hidden=3), 'Span has hidden=3'),
  (lambda: heads.LanguageModel(vocab_size=7, tie=True, hidden=(3,)), r'tie=True and hidden=\(3,\)'),
  (lambda: heads.Contrastive(temperature=0.001), 'temperature=0.001; allowed is a number >= 0.01'),
  (lambda: heads.Retrieval(items=1), 'items=1'),
  (lambda: heads.Retrieval(items=2, temperature=0), 'temperature=0; allowed'),
  (lambda: heads.Survival(intervals=0), 'intervals=0'),
])
def test_wrong_fields_are_named(make, text):
  with pytest.raises(ValueError, match=text):
    make()


@pytest.mark.parametrize('head, label, text', [
  (heads.TokenClassification(classes=3), np.array([[0, -1], [3, 2]]), r'holds 3 \(first at row 1\)'),
  (heads.TokenClassification(classes=3), np.zeros(4, int), r'reads labels of shape \[N, L\]'),
  (heads.LanguageModel(vocab_size=3), np.array([[3]]), 'has vocab_size=3: allowed are 0 … 2, and negative'),
  (heads.Span(), np.array([[2, 1]]), r'has the starts 2 \(first at row 0\)'),
  (heads.Span(), np.zeros((2, 3), int), r'reads labels of shape \[N, 2\]'),
  (heads.Contrastive(), np.array([1, 0]), 'holds 0'),
  (heads.Contrastive(), np.array([1.0]), 'dtype float64'),
  (heads.Retrieval(items=3), np.array([3]), 'holds 3 .* has items=3: allowed are 0 … 2'),
  (heads.Survival(intervals=3), np.array([[3, 0], [3, 1]]), r'has the intervals 3 \(first at row 1\)'),
  (heads.Survival(intervals=3), np.array([[0, 2]]), 'has the events 2'),
  (heads.Survival(intervals=3), np.zeros(3, int), r'shape \[N, 2\]'),
])
def test_bad_labels_are_named(head, label, text):
  with pytest.raises(ValueError, match=text):
    head.check_label(label, 'a')


@pytest.mark.parametrize('head, label', [
  (heads.TokenClassification(classes=3), np.array([[0, -100], [2, 1]])), (heads.Span(), np.array([[1, 1], [-1, -1]])),
  (heads.LanguageModel(vocab_size=3), np.array([[2, 0]], np.uint8)), (heads.Contrastive(), np.array([5, 1])),
  (heads.Retrieval(items=3), np.array([2])), (heads.Survival(intervals=3), np.array([[3, 0], [2, 1], [0, 0]])),
])
def test_good_labels_pass(head, label):
  head.check_label(label, 'a')
