"""Every new head in a task: its default loss and metrics on a batch with missing labels, and no gradient from those."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, experiment, heads, losses
from mtjax.context import Features
from mtjax.data.streams import with_mask
from mtjax.metrics import Collection
from mtjax.objective import Objective
from mtjax.tasks import Task

RNG = np.random.default_rng(0)
ROWS = 4
FEATURES = Features(tokens=RNG.normal(size=(ROWS, 5, 3)).astype(np.float32),
                    pooled=RNG.normal(size=(ROWS, 3)).astype(np.float32), mask=np.ones((ROWS, 5), bool),
                    maps=[RNG.normal(size=(ROWS, 4, 6, 3)).astype(np.float32)])


def whole(high, *shape):
  """Integers 0 … high - 1, of which the last row and some others are missing."""
  label = RNG.integers(0, high, (ROWS, *shape))
  label[-1] = -1
  if shape:
    label[0].flat[0] = -1
  return label


def real(*shape):
  label = np.abs(RNG.normal(size=(ROWS, *shape))).astype(np.float32)
  label[-1] = np.nan
  label[0].flat[0] = np.nan
  return label


# name: (head, label column with -1 or NaN where missing)
CASES = {
  'token_classification': (heads.TokenClassification(classes=4), whole(4, 5)),
  'span': (heads.Span(), whole(5, 2)),
  'language_model': (heads.LanguageModel(vocab_size=7), whole(7, 5)),
  'segmentation': (heads.Segmentation(classes=3), whole(3, 4, 6)),
  'depth': (heads.Depth(), real(4, 6)),
  'normals': (heads.Normals(), real(4, 6, 3)),
  'edges': (heads.Edges(), whole(2, 4, 6)),
  'saliency': (heads.Saliency(), whole(2, 4, 6)),
  'multi_scale': (heads.MultiScale(heads.Saliency(), width=3), whole(2, 4, 6)),
  'contrastive': (heads.Contrastive(dims=2), np.array([3, 3, 3, -1])),
  'retrieval': (heads.Retrieval(items=5), whole(5)),
  'survival': (heads.Survival(intervals=3), np.array([[1, 1], [3, 0], [0, 0], [-1, -1]])),
}


@pytest.mark.parametrize('name', CASES)
def test_losses_and_metrics_of_known_labels_only(name):
  head, column = CASES[name]
  metrics = experiment._metrics(head, {}, name)
  task = Task(name, 'stream', 'label', head, experiment.LOSSES.lookup(head.default_loss), metrics)
  label, mask = with_mask(column, None)
  batch = {'label': jnp.asarray(label), 'label_mask': jnp.asarray(mask)}
  shapes = jax.eval_shape(head.init, jax.random.key(0), FEATURES)
  params = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), shapes)

  @jax.jit
  def run(features, batch):
    def loss(pooled, tokens, maps):
      outputs = head.apply(params, features.replace(pooled=pooled, tokens=tokens, maps=maps))
      total, rows = task.loss_sums(outputs, batch)
      return total, (rows, outputs)
    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(features.pooled, features.tokens, features.maps)

  (total, (rows, outputs)), gradient = jax.device_get(run(FEATURES, batch))
  assert np.isfinite(total) and total > 0 and rows == ROWS - 1
  leaves = jax.tree.leaves(gradient)
  assert all(np.isfinite(g).all() for g in leaves)
  assert max(np.abs(g[:-1]).max() for g in leaves) > 0 and max(np.abs(g[-1]).max() for g in leaves) == 0
  values = metrics.compute(metrics.update(metrics.init(), outputs, task.view(batch)))
  assert set(values) == set(metrics.names)
  assert all(np.isfinite(value) for value in values.values()), values


def test_streams_in_one_call_have_logits_of_their_own():
  encoder = encoders.Mamba(vocab_size=7, width=4, depth=1, state_size=2, logits=True)
  head, loss = heads.LanguageModel(vocab_size=7, tie=True), losses.next_token_xent
  tasks = {name: Task(name, name, 'tokens', head, loss, Collection({})) for name in ('a', 'b')}
  tokens = {name: RNG.integers(0, 7, (2, 5)) for name in tasks}
  batch = {name: {'tokens': x, 'tokens_mask': np.ones((2, 5), bool), 'valid': np.ones(2, bool)}
           for name, x in tokens.items()}
  objective = Objective(encoder, tasks, {name: 'tokens' for name in tasks})
  params = jax.jit(objective.init)(jax.random.key(0), batch)
  outputs = jax.jit(objective.outputs)(params, batch)
  for name, x in tokens.items():
    alone = jax.jit(encoder.apply)({'params': params['encoder']}, x).aux['logits']
    np.testing.assert_allclose(outputs[name], alone, atol=1e-6)
