"""The encoder benchmark: both sides do the same arithmetic, and its parts run."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import encoders as benchmark
from experiments.benchmarks._encoders import clocks, compiling, decoding, overhead, plain_state_spaces
from experiments.benchmarks._encoders.families import FAMILIES, Family, floats, pooled
from experiments.benchmarks._encoders.plain_transformers import How, layers
from mtjax import encoders
from mtjax.encoders.selective_scan import selective_scan
from mtjax.encoders.ssd import ssd
from mtjax.training.flops import count


@pytest.mark.parametrize('name', FAMILIES)
def test_the_plain_counterpart_has_the_same_products(name):
  family = FAMILIES[name]()
  params = jax.eval_shape(family.module.init, jax.random.key(0), family.inputs)['params']
  kernels = family.kernels(params)
  ours = jax.make_jaxpr(lambda p: family.read(family.module.apply({'params': p}, family.inputs)))(params)
  plain = jax.make_jaxpr(lambda p: family.plain(p, family.inputs, How()))(kernels)
  ours, plain = count(ours).total, count(plain).total
  assert plain > 1e9
  assert ours == pytest.approx(plain, rel=3e-4)   # BERT's pooler is traced, though nothing reads it


def test_the_plain_recurrences_are_those_of_the_encoders():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  u, delta, A = draw(2, 8, 3), jax.nn.softplus(draw(2, 8, 3)), -jnp.exp(draw(3, 2))
  B, C = draw(2, 8, 2), draw(2, 8, 2)
  y, _ = selective_scan(u, delta, A, B, C, jnp.zeros(3))
  np.testing.assert_allclose(plain_state_spaces.recurrence(u, delta, A, B, C), y, atol=1e-5)   # float32 sums
  x, delta, A = draw(2, 8, 3, 4), delta, A[:, 0]
  y, _ = ssd(x, delta, A, B[:, :, None], C[:, :, None], jnp.zeros(3), chunk=4)
  np.testing.assert_allclose(plain_state_spaces.dual(x, delta, A, B, C, chunk=4), y, atol=1e-5)


def test_overhead_of_a_small_family():
  family = Family(encoders.MLP(widths=(8, 4)), floats(3, 5), layers, pooled)
  assert set(family.kernels(family.params())) == {'fc1', 'fc2'}
  row = overhead.measure(family, How(), rounds=2, repeats=1)
  assert set(row) == {'forward', 'step'}
  assert all(part['ratio'] > 0 and part['range'][0] <= part['ratio'] <= part['range'][1] for part in row.values())
  assert 'mlp' in benchmark.table('overhead', {'mlp': row})


@pytest.mark.parametrize('name', ['gpt2', 't5'])
def test_decoding_gives_the_same_tokens_with_and_without_a_cache(name, monkeypatch):
  monkeypatch.setattr(decoding, 'SIZES', dict(vocab_size=32, width=16, heads=2))
  row = decoding.measure(name, rounds=1, repeats=1, new=4)
  assert row['equal_tokens'] == 1 and row['tokens_per_second'] > 0
  assert name in benchmark.table('decoding', {name: row})


def test_compiling_counts_every_stage(monkeypatch):
  monkeypatch.setattr(compiling, 'SIZES', dict(vocab_size=32, width=16, heads=2))
  programs = compiling.programs('llama', 'scan, stacked', depth=2, hidden=16)
  assert set(programs) == {'forward', 'step'}
  function, arguments = programs['forward']
  assert arguments[0]['blocks']['norm1']['scale'].shape == (2, 16)
  times = clocks.compile_times(function, *arguments)
  assert times['wall']['total'] == pytest.approx(sum(times['wall'][part] for part in ('trace', 'lower', 'xla')))
