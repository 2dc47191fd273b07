"""SSF, IA3, BitFit, LN tuning on one layer, by hand."""
import jax.numpy as jnp
import numpy as np
import pytest
from adapters.by_hand import adapted, dense, folded

from mtjax.adapters import IA3, SSF, BitFit, LnTuning, Site, ia3_rules


def test_ssf_by_hand():
  # x W + b = 1 + 2 + 3 = 6; 2 * 6 - 1 = 11
  site, p = dense([[1.0], [2.0]], [3.0]), {'scale': [2.0], 'shift': [-1.0]}
  for run in (adapted, folded):
    np.testing.assert_array_equal(run(SSF(), p, site, [[1.0, 1.0]]), [[11.0]])
  merged = SSF().fold({k: jnp.array(v) for k, v in p.items()}, site.params, 'output')
  assert merged['kernel'].tolist() == [[2.0], [4.0]] and merged['bias'].tolist() == [5.0]


def test_ssf_of_std_0_is_the_identity():
  p = SSF(std=0.0).init(jnp.zeros(2, jnp.uint32), dense(np.eye(3)))
  assert p['scale'].tolist() == [1, 1, 1] and p['shift'].tolist() == [0, 0, 0]


def test_a_convolution_is_scaled_by_channel():
  kernel = jnp.ones((2, 2, 3, 4))
  merged = SSF().fold({'scale': jnp.arange(4.0), 'shift': jnp.zeros(4)}, {'kernel': kernel, 'bias': jnp.ones(4)}, 'output')
  np.testing.assert_array_equal(merged['kernel'], np.broadcast_to(np.arange(4.0), (2, 2, 3, 4)))
  np.testing.assert_array_equal(merged['bias'], np.arange(4.0))


def test_nothing_is_shifted_where_there_is_no_bias():
  for method, p in ((SSF(), {'scale': jnp.ones(2), 'shift': jnp.ones(2)}), (BitFit(), {'bias': jnp.ones(2)})):
    with pytest.raises(ValueError, match='without a bias'):
      method.fold(p, {'kernel': jnp.eye(2)}, 'output')


def test_ia3_scales_columns_at_an_output_and_rows_at_an_input():
  site, before = dense([[1.0, 2.0], [3.0, 4.0]], [1.0, 1.0]), dense([[1.0, 2.0], [3.0, 4.0]], [1.0, 1.0], 'input')
  p = {'scale': jnp.array([10.0, 1.0])}
  x = [[1.0, 1.0]]
  np.testing.assert_array_equal(adapted(IA3(), p, site, x), [[50.0, 7.0]])        # (4 + 1) * 10, 6 + 1
  np.testing.assert_array_equal(folded(IA3(), p, site, x), [[50.0, 7.0]])
  scaled = IA3().apply(p, jnp.array(x), None, before)
  np.testing.assert_array_equal(scaled, [[10.0, 1.0]])
  np.testing.assert_array_equal(before.run(before.params, scaled), [[14.0, 25.0]])  # 10 + 3 + 1, 20 + 4 + 1
  np.testing.assert_array_equal(folded(IA3(), p, before, x), [[14.0, 25.0]])
  assert [(rule['site'], rule['match']) for rule in ia3_rules()] == [('output', r'attn/(key|value)$'), ('input', r'mlp/fc2$')]


def test_ln_tuning_changes_scale_and_bias():
  # x = (1, 3) is (-1, 1) normalised; scale 2 + 1, bias 0 + 5
  site = Site('norm', 'output', {'scale': jnp.full(2, 2.0), 'bias': jnp.zeros(2)}, (2,), (2,),
              lambda p, x: p['scale'][None] * (x - x.mean()) / x.std() + p['bias'][None])
  assert LnTuning().fits(site) and not LnTuning().fits(dense(np.eye(2)))
  p = {'scale': jnp.ones(2), 'bias': jnp.full(2, 5.0)}
  np.testing.assert_array_equal(adapted(LnTuning(), p, site, [[1.0, 3.0]]), [[2.0, 8.0]])
  np.testing.assert_array_equal(folded(LnTuning(), p, site, [[1.0, 3.0]]), [[2.0, 8.0]])
