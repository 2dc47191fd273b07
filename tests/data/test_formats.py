"""Text as arrays: hashed words; the examples."""
import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax.data import formats
from mtjax.data.formats import HashedWords


def test_a_row_has_length_one_and_does_not_see_order_of_single_words():
  words = HashedWords('text', features=64, ngrams=1)
  rows = words({'text': np.array(['Good film', 'film GOOD', 'a', ''], object)})
  assert rows.shape == (4, 64) and rows.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 0], rtol=1e-6)  # 'a' is no word of two letters
  np.testing.assert_array_equal(rows[0], rows[1])
  assert not np.array_equal(*HashedWords('text', 64, 2)({'text': np.array(['good film', 'film good'], object)}))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_str_and_bytes_are_the_same_and_rows_do_not_see_each_other(texts):
  words = HashedWords('text', features=32)
  whole = words({'text': np.array(texts, object)})
  encoded = np.array([text.encode() for text in texts], object)
  np.testing.assert_array_equal(words({'text': encoded}), whole)
  for text, row in zip(texts, whole):
    np.testing.assert_array_equal(words({'text': np.array([text], object)})[0], row)


def test_bad_sizes_are_refused():
  for wrong in (dict(features=1), dict(ngrams=0)):
    with pytest.raises(ValueError, match='features >= 2 and ngrams >= 1'):
      HashedWords('text', **wrong)


def test_examples():
  failed, tried = doctest.testmod(formats)
  assert tried and not failed
