"""FLOPs counted on the trace: by hand, and against the compiler where it counts rightly."""
import doctest
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import AxisType, PartitionSpec

from mtjax.encoders import ViT
from mtjax.parallel import chips
from mtjax.studies import speed
from mtjax.training import flops, program


def total(function, *args):
  return flops.count(jax.make_jaxpr(function)(*args)).total


def zeros(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def test_products_by_hand():
  # [5, 2, 3] x [5, 3, 4]: 5 x 2 x 4 sums of 3 products
  assert total(lambda x, y: jnp.einsum('bij,bjk->bik', x, y), zeros(5, 2, 3), zeros(5, 3, 4)) == 2 * 5 * 2 * 4 * 3
  # 8 x 8 pixels of 6 channels, from 3 x 3 x 2 inputs each (4 channels in two groups)
  conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                                                   feature_group_count=2)
  assert total(conv, zeros(1, 8, 8, 4), zeros(3, 3, 2, 6)) == 2 * 8 * 8 * 6 * 3 * 3 * 2


def test_a_gradient_is_twice_the_forward_pass_also_of_strided_convolutions():
  def loss(x, k):
    return jax.lax.conv_general_dilated(x, k, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')).sum()

  args = zeros(2, 8, 8, 3), zeros(2, 2, 3, 5)
  assert total(jax.value_and_grad(loss, (0, 1)), *args) == 3 * total(loss, *args)


def test_loops_count_as_often_as_they_run_and_branches_once():
  x = zeros(4, 4)
  step = lambda c: c @ c
  assert total(lambda c: jax.lax.scan(lambda c, _: (step(c), None), c, None, length=7)[0], x) == 7 * 128
  assert total(lambda c: jax.lax.cond(True, step, lambda c: step(step(c)), c), x) == 2 * 128
  assert total(lambda c: jax.lax.while_loop(lambda c: c.sum() < 0, step, c), x) == 128
  assert total(jax.vmap(jax.jit(jax.checkpoint(step))), zeros(3, 4, 4)) == 3 * 128
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  spec = PartitionSpec('data')
  assert total(jax.shard_map(lambda c: c @ c.T, mesh=mesh, in_specs=spec, out_specs=spec), zeros(8, 4)) == 4 * 2 * 2 * 2 * 4


def test_operands_are_told_apart_by_width():
  found = flops.count(jax.make_jaxpr(lambda x, y: (x @ x, y @ y))(zeros(4, 4, dtype=jnp.bfloat16), zeros(2, 2)))
  assert found == flops.Flops(narrow=128, wide=16)


@pytest.mark.parametrize('layout, shape', [(0, (2, 16, 4, 8)), (1, (2, 4, 16, 8))])
def test_fused_attention_counts_as_the_products_that_it_replaces(layout, shape):
  variable = SimpleNamespace(aval=zeros(*shape, dtype=jnp.bfloat16))

  def of(name):
    equation = SimpleNamespace(primitive=core.Primitive(name), invars=[variable] * 3, params={'layout': layout}, outvars=[])
    return flops.count(SimpleNamespace(eqns=[equation])).narrow

  def plain(q, k, v):
    return jnp.einsum('bhls,bshd->blhd', jnp.einsum('blhd,bshd->bhls', q, k), v)

  one = total(plain, *[zeros(2, 16, 4, 8)] * 3)
  assert of('dot_product_attention_fwd_wrapper') == one
  assert of('dot_product_attention_bwd_wrapper') == 2 * one


def test_agrees_with_the_compiler_where_there_are_no_loops_and_sees_those_that_it_does_not():
  def gradient(scan):
    module = ViT(patch=4, width=64, depth=2, heads=4, scan=scan)
    images = zeros(8, 16, 16, 3)
    params = jax.eval_shape(module.init, jax.random.key(0), images)
    traced = jax.jit(jax.grad(lambda p, x: module.apply(p, x).pooled.sum())).trace(params, images)
    return flops.count(traced.jaxpr).total, traced.lower().compile().cost_analysis()['flops']

  ours, compiled = gradient(scan=False)
  # The compiler counts elementwise work, too, which at this width is about a tenth.
  np.testing.assert_allclose(ours, compiled, rtol=0.15)
  scanned, compiled_scan = gradient(scan=True)
  assert scanned == ours and compiled_scan < 0.75 * compiled


@pytest.mark.parametrize('module', [chips, flops, program, speed])
def test_examples_are_true(module):
  failed, tried = doctest.testmod(module, extraglobs={'jax': jax, 'jnp': jnp})
  assert tried and not failed
