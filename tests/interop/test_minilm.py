"""A published checkpoint, end to end: MiniLM-L6 finds which sentences mean the same."""
import jax
import numpy as np
import pytest

from mtjax.data import paths
from mtjax.interop import Tokenizer, hf

SENTENCES = ['A man is eating food.', 'A man eats something.', 'The stock market fell today.']


@pytest.mark.slow
def test_sentences_that_mean_the_same_are_close():
  directory = paths.raw('minilm_l6')
  if not directory.exists():
    pytest.skip(f'{directory} is not there: python -m mtjax.data.fetch minilm_l6')
  module, params = hf.load(directory)
  tokens, _ = Tokenizer(directory)(SENTENCES, length=32)
  pooled = np.asarray(jax.jit(module.clone(pool='mean').apply)({'params': params}, tokens).pooled)
  unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
  # What the original implementation gives, rounded to four digits.
  np.testing.assert_allclose(unit[1:] @ unit[0], [0.8749, -0.0170], atol=1e-4)
