"""MTLoRA: streams of tasks at the ends of Swin's stages."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from optim.calls import quick_jit

from mtjax import adapters, tree
from mtjax.adapters.mtlora import bind_streams, mtlora_rules
from mtjax.encoders import Swin

ENCODER = Swin(patch=2, width=4, depths=(2, 1), heads=(1, 2), window=2, mlp_ratio=2.0)
LAST = r'(stage_0/block_1|stage_1/block_0)'
X = np.random.default_rng(0).random((2, 8, 8, 1)).astype(np.float32)
CLOSE = dict(rtol=1e-5, atol=1e-5)  # float32


@functools.cache
def setup():
  base = table.base_params(ENCODER, X)
  spec = adapters.Spec(mtlora_rules(LAST, rank=2, task_rank=1, dropout_rate=0.0)).with_tasks(['a', 'b'])
  fresh = adapters.init_adapters(jax.random.key(0), ENCODER, base, spec, X)
  return base, spec, fresh, table.busy(fresh)


@functools.cache
def program(mode='matrix'):
  base, spec, _, _ = setup()
  forward = bind_streams(ENCODER, spec, LAST, mode)
  return quick_jit(lambda state: forward(base, state, X))


def test_rules_are_where_the_paper_has_them():
  _, spec, fresh, _ = setup()
  assert [rule.method.scale for rule in spec] == [4, 4]
  paths = {path.rpartition('/@own')[0] for path in tree.flatten(fresh['adapters']) if '@own' in path}
  assert paths == {f'{block}/{layer}' for block in ('stage_0/block_1', 'stage_1/block_0')
                   for layer in ('attn/out', 'mlp/fc1', 'mlp/fc2')}
  assert sum('@shared/a' in path for path in tree.flatten(fresh['adapters'])) == 3 * 6


def test_all_streams_are_the_block_at_first():
  base, _, fresh, _ = setup()
  features, streams = program()(fresh)
  plain = ENCODER.apply({'params': base}, X)
  np.testing.assert_allclose(features.tokens, plain.tokens, **CLOSE)
  assert [s.shape for s in streams] == [(2, 2, 4, 4, 4), (2, 2, 2, 2, 8)]
  for task in range(2):
    np.testing.assert_allclose(streams[0][task], plain.maps[0], **CLOSE)


def test_streams_by_mode():
  base, spec, _, state = setup()
  features, streams = program()(state)
  assert not np.allclose(streams[0][0], streams[0][1], atol=1e-3)
  # The shared stream does not know of tasks.
  without = tree.unflatten({path: x * ('@own' not in path) for path, x in tree.flatten(state['adapters']).items()})
  np.testing.assert_array_equal(features.tokens, program()({**state, 'adapters': without})[0].tokens)
  # 'matrix': a stream is what its own LoRAs make of the block, where the shared ones are not.
  last = 'stage_1/block_0'
  alone = tree.unflatten({path: x * (not path.startswith(last) or '@shared' not in path or 'attn/out' not in path)
                          for path, x in tree.flatten(state['adapters']).items()})
  np.testing.assert_allclose(program()({**state, 'adapters': alone})[1][1], streams[1], **CLOSE)
  # 'matrixv2' with own LoRAs of zero is the shared stream (behind the last norm: maps; before it: stage 0).
  both = program('matrixv2')({**state, 'adapters': without})
  np.testing.assert_allclose(both[1][0][0], both[0].maps[0], **CLOSE)


def test_gradients_of_a_task_reach_its_own_loras_and_the_shared_ones_before():
  base, spec, _, state = setup()
  forward = bind_streams(ENCODER, spec, LAST)
  gradient = quick_jit(jax.grad(lambda state: jnp.sum(forward(base, state, X)[1][1][0]**2)))(state)['adapters']
  flat = tree.flatten(gradient)
  for path, x in flat.items():
    if '@own' in path:
      assert not np.any(x[1]) and np.any(x[0]) == path.startswith('stage_1'), path
  assert np.any(flat['stage_0/block_0/mlp/fc1/@shared/a'])
  assert not np.any(flat['stage_1/block_0/mlp/fc1/@shared/a'])  # 'matrix': no shared term in a stream


def test_what_streams_need_is_said():
  _, spec, _, _ = setup()
  with pytest.raises(ValueError, match="mode='matrx'. Did you mean 'matrix'"):
    bind_streams(ENCODER, spec, LAST, 'matrx')
  with pytest.raises(ValueError, match='remat=True'):
    bind_streams(ENCODER.clone(remat=True), spec, LAST)
  with pytest.raises(ValueError, match='at least one such rule'):
    bind_streams(ENCODER, adapters.Spec(spec.rules[:1]), LAST)
