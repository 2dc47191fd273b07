"""What every head promises: outputs, parameter names, float32, and labels checked on the host."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import heads, tree
from mtjax.context import Features

POOLED = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
LOSSES = {'softmax_xent', 'soft_xent', 'sigmoid_xent', 'mse', 'ordinal_nll'}

# name: (head, shape of the outputs, kind, parameter shapes)
CASES = {
  'classification': (
    heads.Classification(classes=3), (4, 3), 'softmax', {'out/kernel': (6, 3), 'out/bias': (3,)}),
  'classification_hidden': (
    heads.Classification(classes=3, hidden=(5, 2)), (4, 3), 'softmax',
    {'fc1/kernel': (6, 5), 'fc1/bias': (5,), 'fc2/kernel': (5, 2), 'fc2/bias': (2,), 'out/kernel': (2, 3),
     'out/bias': (3,)}),
  'soft_classification': (
    heads.SoftClassification(classes=3), (4, 3), 'softmax', {'out/kernel': (6, 3), 'out/bias': (3,)}),
  'regression': (
    heads.Regression(), (4,), 'identity', {'out/kernel': (6, 1), 'out/bias': (1,)}),
  'regression_dims': (
    heads.Regression(dims=2, hidden=(5,)), (4, 2), 'identity',
    {'fc1/kernel': (6, 5), 'fc1/bias': (5,), 'out/kernel': (5, 2), 'out/bias': (2,)}),
  'multilabel': (
    heads.MultiLabel(labels=7), (4, 7), 'sigmoid', {'out/kernel': (6, 7), 'out/bias': (7,)}),
  'ordinal': (
    heads.Ordinal(classes=4, hidden=(5,)), (4, 3), 'ordinal',
    {'fc1/kernel': (6, 5), 'fc1/bias': (5,), 'out/kernel': (5, 1), 'first': (1,), 'gaps': (2,)}),
  'ordinal_binary': (
    heads.Ordinal(classes=2), (4, 1), 'ordinal', {'out/kernel': (6, 1), 'first': (1,)}),
}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', CASES)
def test_outputs_and_parameters(name, dtype):
  head, outputs, kind, params = CASES[name]
  head, features = head.clone(dtype=dtype), Features(pooled=jnp.asarray(POOLED, dtype))
  with jax.numpy_dtype_promotion('strict'):
    variables = jax.eval_shape(head.init, jax.random.key(0), features)
    result = jax.eval_shape(lambda v, f: head.apply(v, f, {'label': jnp.zeros(4)}, train=True), variables, features)
  flat = tree.flatten(variables['params'])
  assert {path: leaf.shape for path, leaf in flat.items()} == params
  assert (result.shape, head.kind) == (outputs, kind)
  assert {leaf.dtype for leaf in (result, *flat.values())} == {jnp.dtype('float32')}
  assert head.default_loss in LOSSES and head.default_metrics


def test_hidden_layers_by_hand():
  head = heads.Classification(classes=2, hidden=[2])
  params = {
    'fc1': {'kernel': np.array([[1.0, -1.0], [2.0, 1.0]]), 'bias': np.array([0.0, 0.5])},
    'out': {'kernel': np.array([[1.0, 0.0], [0.0, 2.0]]), 'bias': np.array([0.0, 1.0])},
  }
  # [1, 1] -> fc1 [3, 0.5] -> relu alike -> [3, 2]; [-1, 0] -> [-1, 1.5] -> [0, 1.5] -> [0, 4].
  logits = head.apply({'params': params}, Features(pooled=np.array([[1.0, 1.0], [-1.0, 0.0]], np.float32)))
  np.testing.assert_allclose(logits, [[3.0, 2.0], [0.0, 4.0]], rtol=1e-6)
  assert isinstance(hash(head), int)


@pytest.mark.parametrize('dims', [1, 2])
def test_regression_is_in_units_of_the_label(dims):
  plain, scaled = heads.Regression(dims=dims), heads.Regression(dims=dims, mean=10.0, std=4.0)
  rng = np.random.default_rng(0)
  params = {'out': {'kernel': rng.normal(size=(6, dims)), 'bias': rng.normal(size=dims)}}
  features = Features(pooled=POOLED)
  expected = 10 + 4 * np.asarray(plain.apply({'params': params}, features))
  np.testing.assert_allclose(scaled.apply({'params': params}, features), expected, rtol=1e-5)


def test_every_head_says_what_its_encoder_lacks():
  for head, *_ in CASES.values():
    with pytest.raises(ValueError, match=rf'{type(head).__name__} reads features.pooled, .* It fills: tokens'):
      jax.eval_shape(head.init, jax.random.key(0), Features(tokens=jnp.zeros((4, 2, 6))))


FIELD_ERRORS = [
  (lambda: heads.Classification(classes=1), r'Classification has classes=1; allowed is an integer >= 2'),
  (lambda: heads.Classification(classes=2.0), r'Classification has classes=2.0; allowed is an integer >= 2'),
  (lambda: heads.SoftClassification(classes=-3), r'SoftClassification has classes=-3; allowed'),
  (lambda: heads.Classification(classes=2, hidden=(4, 0)), r'hidden=\(4, 0\); allowed is a sequence of integers >= 1'),
  (lambda: heads.Classification(classes=2, hidden=4), r'hidden=4; allowed is a sequence of integers >= 1, or \(\)'),
  (lambda: heads.MultiLabel(labels=0), r'MultiLabel has labels=0; allowed is an integer >= 1'),
  (lambda: heads.Ordinal(classes=1), r'Ordinal has classes=1; allowed is an integer >= 2'),
  (lambda: heads.Regression(dims=0), r'Regression has dims=0; allowed is an integer >= 1'),
  (lambda: heads.Regression(std=0.0), r'Regression has std=0.0; allowed is a finite number > 0'),
  (lambda: heads.Regression(mean=float('nan')), r'Regression has mean=nan; allowed is a finite number'),
  (lambda: heads.Regression(mean='3'), r"Regression has mean='3'; allowed is a finite number"),
]


@pytest.mark.parametrize('act, text', FIELD_ERRORS)
def test_wrong_fields_are_named(act, text):
  with pytest.raises(ValueError, match=text):
    act()


GOOD_LABELS = [
  (heads.Classification(classes=3), np.array([0, 2, 1], np.uint8)),
  (heads.Classification(classes=2), np.array([True, False])),
  (heads.Classification(classes=3), np.zeros(0, np.int32)),
  (heads.SoftClassification(classes=3), np.array([[0.5, 0.5, 0], [1, 0, 0]], np.float32)),
  (heads.SoftClassification(classes=3), np.array([[1, 1, 1]], np.float16) / 3),
  (heads.Regression(), np.array([-5, 7])),
  (heads.Regression(dims=2), np.array([[0.5, 1e9]])),
  (heads.MultiLabel(labels=2), np.array([[True, False]])),
  (heads.MultiLabel(labels=2), np.array([[1.0, 0.0]])),
  (heads.Ordinal(classes=4), np.array([3, 0])),
]


@pytest.mark.parametrize('head, label', GOOD_LABELS)
def test_good_labels_pass(head, label):
  head.check_label(label, 'left')


BAD_LABELS = [
  (heads.Classification(classes=10), np.r_[np.zeros(37, int), 11, 3, 11],
   "Label column 'left' holds 11 (first at row 37), but the head has classes=10: allowed are 0 … 9."),
  (heads.Classification(classes=3), np.array([0, -1, 3]),
   "Label column 'left' holds -1, 3 (first at row 1), but the head has classes=3: allowed are 0 … 2."),
  (heads.Classification(classes=3), np.arange(100),
   "Label column 'left' holds 3, 4, 5, 6, 7, … (first at row 3), but the head has classes=3: allowed are 0 … 2."),
  (heads.Classification(classes=3), np.array([0.5]),
   "Label column 'left' has dtype float64, but the head has classes=3: allowed are integers, 0 … 2."),
  (heads.Classification(classes=3), np.eye(3, dtype=int),
   "Label column 'left' has shape [3, 3], but the head has classes=3: it reads labels of shape [N]."),
  (heads.SoftClassification(classes=3), np.array([0, 1]),
   "Label column 'left' has shape [2], but the head has classes=3: it reads labels of shape [N, 3]."),
  (heads.SoftClassification(classes=2), np.array([[0.5, 0.5], [1.5, -0.5]]),
   "Label column 'left' holds 1.5, -0.5 (first at row 1), but the head has classes=2: "
   'allowed are probabilities in [0, 1].'),
  (heads.SoftClassification(classes=2), np.array([[0.5, 0.5], [0.5, 0.25]]),
   "Label column 'left' has rows that sum to 0.75 (first at row 1), but the head has classes=2: "
   'allowed are rows that sum to 1 (within 0.001).'),
  (heads.Regression(), np.array([0, 1, np.nan, np.inf]),
   "Label column 'left' holds nan, inf (first at row 2), but the head has dims=1: "
   'allowed are finite numbers (mask the labels that are missing).'),
  (heads.Regression(), np.zeros((3, 1)),
   "Label column 'left' has shape [3, 1], but the head has dims=1: it reads labels of shape [N]."),
  (heads.Regression(dims=2), np.zeros((3, 3)),
   "Label column 'left' has shape [3, 3], but the head has dims=2: it reads labels of shape [N, 2]."),
  (heads.Regression(), np.array(['a']),
   "Label column 'left' has dtype <U1, but the head has dims=1: allowed are numbers."),
  (heads.MultiLabel(labels=2), np.array([[0, 1], [2, 1]]),
   "Label column 'left' holds 2 (first at row 1), but the head has labels=2: allowed are 0 and 1."),
  (heads.Ordinal(classes=5), np.array([4, 5]),
   "Label column 'left' holds 5 (first at row 1), but the head has classes=5: allowed are 0 … 4."),
]


@pytest.mark.parametrize('head, label, text', BAD_LABELS)
def test_bad_labels_are_named_with_row_and_range(head, label, text):
  with pytest.raises(ValueError) as error:
    head.check_label(label, 'left')
  assert str(error.value) == text
