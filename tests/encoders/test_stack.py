"""Rematerialisation by name: the same gradients from every policy, and what is kept in its memory."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mtjax import encoders, experiment
from mtjax.autodiff.graph import open_jaxpr
from mtjax.encoders.attention import attend
from mtjax.encoders.stack import POLICIES

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
TEXT = np.array([[1, 70, 80, 2, 0, 0], [1, 90, 91, 92, 93, 2]], np.int32)
SMALL = dict(width=8, depth=2, heads=2)
CASES = {
  'mlp': (encoders.MLP(widths=(6, 4)), IMAGES), 'lenet': (encoders.LeNet(channels=(2, 3), width=5), IMAGES),
  'vit': (encoders.ViT(patch=8, **SMALL), IMAGES), 'convnet': (encoders.ConvNet(width=4, depths=(1,), groups=2), IMAGES),
  'swin': (encoders.Swin(patch=2, width=4, depths=(1,), heads=(2,), window=2), IMAGES),
  'efficientnet_lite': (encoders.EfficientNetLite(), np.zeros((1, 32, 32, 3), np.uint8)),
  'tabular': (encoders.Tabular(codes=5, embed_width=3, widths=(4,)),
              {'categorical': np.array([[1, 2]], np.int32), 'numeric': np.ones((1, 3), np.float32)}),
  'ast': (encoders.AST(mels=4, frames=7, patch=2, stride=2, **SMALL), np.ones((2, 7, 4), np.float32)),
  'byte_transformer': (encoders.ByteTransformer(max_length=7, **SMALL), TEXT),
  'bert': (encoders.BERT(vocab_size=99, max_length=7, **SMALL), TEXT),
  'gpt2': (encoders.GPT2(vocab_size=99, max_length=7, **SMALL), TEXT),
  'llama': (encoders.Llama(vocab_size=99, **SMALL), TEXT),
  't5': (encoders.T5(vocab_size=99, decoder_depth=0, **SMALL), TEXT),
  'mamba': (encoders.Mamba(vocab_size=99, width=8, depth=1, chunk=4), TEXT),
  'mamba2': (encoders.Mamba2(vocab_size=96, width=8, depth=1, state_size=4, head_size=4, chunk=4), TEXT),
}
ATTENDS = ('vit', 'swin', 'ast', 'byte_transformer', 'bert', 'gpt2', 'llama', 't5')


def loss_of(encoder, inputs):
  return lambda variables: jnp.sum(jnp.sin(encoder.apply(variables, inputs).pooled))


def policies(jaxpr):
  """The policy of every rematerialised part."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ('remat', 'remat2', 'checkpoint'):
      yield eqn.params['policy']
    for value in eqn.params.values():
      inner, _ = open_jaxpr(value)
      if hasattr(inner, 'eqns'):
        yield from policies(inner)


@pytest.mark.parametrize('name', CASES)
def test_every_encoder_takes_every_policy(name):
  encoder, inputs = CASES[name]
  with pytest.raises(ValueError, match=f"{type(encoder).__name__} has remat='half'; allowed are False, True"):
    encoder.clone(remat='half')
  variables = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  for remat, policy in POLICIES.items():
    again = encoder.clone(remat=remat)
    assert jax.tree.structure(jax.eval_shape(again.init, jax.random.key(0), inputs)) == jax.tree.structure(variables)
    text = jax.make_jaxpr(loss_of(again, inputs))(variables)
    found = list(policies(text.jaxpr))
    own = name.startswith('mamba')          # a scan by chunks is rematerialised always
    assert (policy in found) if policy is not None else (not found or own)
    assert ('name=attention_out' in str(text)) == (name in ATTENDS)


@pytest.mark.parametrize('name', ['mlp', 'lenet', 'vit', 'convnet'])
def test_no_policy_changes_values_or_gradients(name):
  encoder, inputs = CASES[name]
  shapes, rng = jax.eval_shape(encoder.init, jax.random.key(0), inputs), np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(x.dtype), shapes)
  results = {}
  for remat in ('none', 'full', 'save_attention_out' if name in ATTENDS else 'dots'):
    results[remat] = jax.jit(jax.value_and_grad(loss_of(encoder.clone(remat=remat), inputs)))(variables)
  for other in results.values():
    # The same operations once more; the compiler may join them otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), other, results['none'])


def count(jaxpr, name):
  total = 0
  for eqn in jaxpr.eqns:
    total += eqn.primitive.name == name
    for value in eqn.params.values():
      for item in value if isinstance(value, (tuple, list)) else (value,):
        inner, _ = open_jaxpr(item)
        if hasattr(inner, 'eqns'):
          total += count(inner, name)
  return total


def test_chunks_are_not_gone_through_again_where_attention_is_kept():
  x = jnp.ones((1, 8, 2, 4))

  def loss(x, policy):
    run = jax.checkpoint(lambda x: attend(x, x, x, implementation='chunked', chunk=4), policy=POLICIES[policy])
    return run(x).sum()

  again, kept = (count(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(x, policy).jaxpr, 'scan')
                 for policy in ('full', 'save_attention_out'))
  assert (again, kept) == (3, 2)  # forward, (forward again,) backward


# --- by config


def test_config_remat_goes_to_the_encoder_which_may_say_otherwise():
  vit = dict(name='vit', patch=4, width=8, depth=1, heads=2)
  of = lambda **fields: experiment.build(toy.config(**fields)).objective.encoder.remat
  assert of(encoder=vit, remat='dots') == 'dots' and of(encoder=vit) is False
  assert of(encoder=dict(vit, remat='full'), remat='dots') == 'full'
  with pytest.raises(ValueError, match="remat='al'; allowed are"):
    of(encoder=vit, remat='al')
  with pytest.raises(ValueError, match="'remat' is 'full', but Plain has no field `remat`"):
    of(encoder=dict(name='test_precision:Plain'), remat='full')


VIT = dict(name='vit', patch=2, width=16, depth=4, heads=2, hidden=64)


def test_what_the_policies_keep_for_the_backward_pass():
  kept = {}
  for remat in POLICIES:
    run = experiment.build(toy.config(encoder=VIT, remat=remat))
    batch, params = run.batch(0), jax.eval_shape(run.init).params
    losses = lambda params, run=run, batch=batch: run.objective(params, batch, jax.random.key(0), 0).sums
    pullback = jax.eval_shape(lambda params, losses=losses: jax.vjp(losses, params)[1], params)
    kept[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))
  assert sorted(kept, key=kept.get) == ['full', 'save_attention_out', 'dots_with_no_batch_dims', 'dots', 'none']
  # Four inputs of layers [64, 16 + 1, 16] and the heads' share, in place of some 30 arrays of that size a layer.
  assert kept['full'] < 0.1 * kept['none']
  assert kept['save_attention_out'] - kept['full'] == 4 * 64 * 17 * 16 * 4


def test_a_compiled_step_with_full_remat_needs_less_memory():
  """Layers in a scan, whose passes the compiler for CPUs cannot join again as it does those of a loop written out."""
  temporary = {}
  for remat in ('none', 'full'):
    run = experiment.build(toy.config(encoder=dict(VIT, scan=True), remat=remat))
    stage = run.stages[0]
    compiled = stage.update.lower(jax.eval_shape(run.init), run.batch(1), stage.rng).compile()
    temporary[remat] = compiled.memory_analysis().temp_size_in_bytes
  assert temporary['full'] < 0.5 * temporary['none'], temporary
