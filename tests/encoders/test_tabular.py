"""Tables: codes and numbers by hand, missing values, and bad values that do not pass unseen."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders

ROWS = {'categorical': np.array([[0, 1], [2, 0]], np.int32), 'numeric': np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)}
GAPS = {'numeric': np.array([[np.nan, 2.0], [3.0, np.nan]], np.float32)}


def seen(encoder, inputs, **params):
  """What the layers behind read: one layer that passes its input on (all numbers of the tests are >= -9)."""
  shape = jax.eval_shape(encoder.init, jax.random.key(0), inputs)['params']['mlp']['fc1']['kernel'].shape
  assert shape[0] == shape[1], shape
  params['mlp'] = {'fc1': {'kernel': np.eye(shape[0], dtype=np.float32), 'bias': np.full(shape[0], 9, np.float32)}}
  return np.asarray(encoder.apply({'params': params}, inputs).pooled) - 9


def test_one_table_for_all_columns():
  encoder = encoders.Tabular(codes=3, embed_width=2, widths=(6,))
  table = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
  got = seen(encoder, ROWS, embed={'embedding': table})
  np.testing.assert_allclose(got, [[1, 2, 3, 4, 1, -2], [5, 6, 1, 2, 3, 4]])


def test_a_table_for_each_column():
  encoder = encoders.Tabular(codes=[3, 2], embed_width=1, widths=(4,))
  table = np.array([[1], [2], [3], [4], [5]], np.float32)        # codes 0, 1, 2 of the first column, 0, 1 of the second
  np.testing.assert_allclose(seen(encoder, ROWS, embed={'embedding': table}), [[1, 5, 1, -2], [3, 4, 3, 4]])
  assert isinstance(hash(encoder), int)


@pytest.mark.parametrize('missing', ['zero', 'learned'])
def test_missing_numbers_are_filled_and_marked(missing):
  encoder = encoders.Tabular(missing=missing, mean=(1.0, 0.0), std=(2.0, 4.0), widths=(4,))
  params = {'fill': np.array([7.0, 8.0], np.float32)} if missing == 'learned' else {}
  fill = params.get('fill', np.zeros(2))
  # (3 - 1) / 2 = 1 and 2 / 4 = 1 / 2; then what is missing.
  expected = [[fill[0], 0.5, 1, 0], [1, fill[1], 0, 1]]
  np.testing.assert_allclose(seen(encoder, GAPS, **params), expected)
  known = {'numeric': np.array([[-5.0, 2], [3, -5]], np.float32), 'numeric_mask': np.array([[False, True], [True, False]])}
  np.testing.assert_allclose(seen(encoder, known, **params), expected)


def test_gradients_are_finite_where_numbers_are_missing():
  encoder = encoders.Tabular(missing='learned', widths=(3,), std=(2.0, 2.0))
  params = jax.jit(encoder.init)(jax.random.key(0), GAPS)
  gradient = jax.device_get(jax.jit(jax.grad(lambda p: encoder.apply(p, GAPS).pooled.sum()))(params))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert np.abs(gradient['params']['fill']).min() > 0


def test_nothing_passes_unseen():
  plain = encoders.Tabular(widths=(2,))
  assert np.isnan(seen(plain, GAPS)).any(axis=1).all()
  coded = encoders.Tabular(codes=(3, 2), embed_width=1, widths=(2,))
  table = {'embedding': np.ones((5, 1), np.float32)}
  # Of the first column, code 3 would be a row of the second; -1 would be the last row.
  for row, good in (((0, 1), True), ((3, 0), False), ((0, 2), False), ((-1, 0), False), ((0, -1), False)):
    assert np.isfinite(seen(coded, {'categorical': np.array([row])}, embed=table)).all() == good, row


def test_columns_by_name_and_arrays_alone():
  clinic = encoders.Tabular(numeric=('person', 'history'), widths=(3,))
  got = seen(clinic, {'history': np.array([[1], [0]]), 'person': np.array([[1.5, 2], [3, 4]], np.float32)})
  np.testing.assert_allclose(got, [[1.5, 2, 1], [3, 4, 0]])
  np.testing.assert_allclose(seen(encoders.Tabular(widths=(2,)), ROWS['numeric']), ROWS['numeric'])


INIT_ERRORS = [
  (dict(codes=3), {'numeric': ROWS['numeric']}, ValueError, 'Absent: categorical. Without a use: none'),
  (dict(), {**ROWS}, ValueError, r'inputs categorical, numeric. Absent: none. Without a use: categorical'),
  (dict(), {'numeric': ROWS['numeric'], 'numeric_mask': np.ones((2, 2), bool)}, ValueError, 'use: numeric_mask'),
  (dict(numeric=('a', 'b')), {'a': ROWS['numeric']}, ValueError, 'Absent: b'),
  (dict(), {}, ValueError, 'got the inputs none'),
  (dict(codes=3), {'categorical': ROWS['numeric']}, TypeError, "codes, but 'categorical' has dtype float32"),
  (dict(codes=(3, 2, 2)), ROWS, ValueError, r'codes=\(3, 2, 2\), 3 columns, but the input has 2'),
  (dict(), {'numeric': np.zeros(3, np.float32)}, ValueError, r"columns \[B, N\], but 'numeric' has shape \[3\]"),
  (dict(mean=(1.0,)), ROWS['numeric'], ValueError, '1 numbers in mean, but the input has 2 numeric columns'),
  (dict(missing='zero'), {'numeric': ROWS['numeric'], 'numeric_mask': np.ones((2, 1), bool)}, ValueError,
   r"'numeric_mask' of shape \[2, 1\]"),
]


@pytest.mark.parametrize('fields, inputs, error, text', INIT_ERRORS)
def test_inputs_that_do_not_fit_are_named(fields, inputs, error, text):
  with pytest.raises(error, match=text):
    jax.eval_shape(encoders.Tabular(**fields).init, jax.random.key(0), jax.tree.map(jnp.asarray, inputs))


@pytest.mark.parametrize('fields, text', [
  (dict(codes=(3, 0)), r'Tabular has codes=\(3, 0\)'), (dict(missing='mean'), "missing='mean'; allowed are None, 'zero'"),
  (dict(std=(0.0,)), r'std=\(0.0,\); allowed are finite numbers > 0'), (dict(mean=(np.nan,)), 'mean=.*finite numbers'),
  (dict(numeric='numeric'), "numeric='numeric'; allowed is a sequence"), (dict(widths=()), r'widths=\(\)'),
])
def test_errors_name_field_value_and_what_is_allowed(fields, text):
  with pytest.raises(ValueError, match=text):
    encoders.Tabular(**fields)
