"""Precision, rematerialisation, accumulation and meshes together: one program, buffers given away, the same losses."""
import re

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment

VIT = dict(name='vit', patch=4, width=16, depth=1, heads=4, hidden=32)
MLP = dict(name='mlp', widths=(16,))
PARTS = dict(accumulate=4)
OPTIONS = {
  'bfloat16': dict(precision=dict(compute='bfloat16')),
  'bfloat16 parameters': dict(precision=dict(compute='bfloat16', params='bfloat16')),
  'remat': dict(remat='full'), 'accumulate': dict(gradients=PARTS),
  'accumulate, per task': dict(gradients=PARTS, aggregator=dict(name='upgrad')),
}


def three_steps(encoder=VIT, **fields):
  """(stage, its arguments, losses [3, T]); asserts that each step takes the state's buffers and compiles nothing more."""
  run = experiment.build(toy.config(encoder=encoder, ema=0.9, **fields))
  stage, state, sums = run.stages[0], run.init(), []
  for step in range(3):
    before = jax.tree.leaves((state.params, state.opt_state, state.ema, state.window))
    state = stage.step(state, run.batch(step))
    assert all(x.is_deleted() for x in before)
    sums.append(np.array(state.window.losses.sums))  # a copy: a view would hold the buffer
  assert stage.update._cache_size() == 1
  return stage, (state, run.batch(3), stage.rng), np.diff(sums, axis=0, prepend=0)


@pytest.mark.parametrize('name', OPTIONS)
def test_buffers_are_donated_and_nothing_is_compiled_twice(name):
  *_, losses = three_steps(**OPTIONS[name])
  assert np.isfinite(losses).all()


@pytest.mark.parametrize('aggregator', [{}, dict(name='upgrad')], ids=['joint', 'per task'])
def test_on_a_mesh_rows_stay_where_they_are_and_losses_are_those_of_one_device(aggregator):
  *_, alone = three_steps(encoder=MLP, aggregator=aggregator)
  stage, arguments, found = three_steps(mesh=dict(data=4, fsdp=2), remat='full', gradients=PARTS, encoder=MLP,
                                        aggregator=aggregator)
  np.testing.assert_allclose(found, alone, rtol=1e-4)      # sums over devices and micro-batches add in another order
  text = stage.update.lower(*arguments).compile().as_text()
  assert 'all-reduce' in text and 'all-to-all' not in text
  # What is brought together are parameters, which fsdp splits; rows never.
  gathered = {tuple(map(int, shape.split(','))) for shape in re.findall(r'= \w+\[([\d,]+)\]\S* all-gather\(', text)}
  assert gathered and gathered <= {leaf.shape for leaf in jax.tree.leaves(arguments[0].params)}
