"""Small shared trunks of every kind of layer, each with three task heads, and the obvious way to get their gradients."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.objective import Losses
from mtjax.optim import base, stacked

NUM_TASKS = 3


class Mlp(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Dense(5, name='fc2')(nn.tanh(nn.Dense(6, name='fc1')(x))))


class General(nn.Module):
  """DenseGeneral over two axes, and an einsum on a raw parameter that is transposed first."""

  @nn.compact
  def __call__(self, x):
    x = nn.DenseGeneral((2, 3), name='split')(x)
    x = nn.DenseGeneral(4, axis=(-2, -1), name='join')(jnp.sin(x))
    w = self.param('w', nn.initializers.normal(1.0), (5, 4))
    return jnp.einsum('bd,ed->be', x, w)


class Images(nn.Module):
  """Convolutions and a group norm."""

  @nn.compact
  def __call__(self, x):
    x = x.reshape(x.shape[0], 2, 2, 1)
    x = nn.Conv(4, (2, 2), name='conv1')(x)
    x = nn.GroupNorm(2, name='norm')(x)
    x = nn.Conv(3, (2, 2), strides=(2, 2), padding='VALID', name='conv2')(nn.tanh(x))
    return x.reshape(x.shape[0], -1)


class Tokens(nn.Module):
  """Look-up, position, a leading token of its own, layer norm; the table is read again at the end (tied)."""
  tied: bool = False

  @nn.compact
  def __call__(self, x):
    embed = nn.Embed(7, 4, name='embed')
    x = embed((jnp.abs(x) * 3).astype(jnp.int32) % 7)
    x = x + self.param('pos', nn.initializers.normal(1.0), x.shape[1:])[None]
    cls = self.param('cls', nn.initializers.normal(1.0), (4,))
    x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, 4)), x], axis=1)
    x = nn.LayerNorm(name='norm')(x)
    x = nn.Dense(4, name='fc')(x).mean(1)
    return embed.attend(x) if self.tied else x


class Twice(nn.Module):
  """One dense layer used twice, and one used in every turn of a recurrence."""

  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(4, name='layer')
    x = layer(nn.tanh(layer(x)))
    turn = lambda cell, x, _: (nn.tanh(cell(x)), None)
    loop = nn.scan(turn, variable_broadcast='params', split_rngs={'params': False}, length=3)
    return loop(nn.Dense(4, name='cell'), x, None)[0]


class Block(nn.Module):
  """A transformer block, with an adapter of rank 2 beside the first dense layer."""

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm(name='norm1')(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2, name='attn')(y)
    y = nn.LayerNorm(name='norm2')(x)
    z = nn.Dense(6, name='fc1')(y) + nn.Dense(6, name='up')(nn.Dense(2, use_bias=False, name='down')(y))
    return x + nn.Dense(x.shape[-1], name='fc2')(nn.gelu(z))


class Transformer(nn.Module):
  """Blocks in a row: plain, rematerialised, or scanned."""
  kind: str

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(4, name='embed')(x[..., None])
    if self.kind == 'scan':
      step = lambda block, x, _: (block(x), None)
      blocks = nn.scan(step, variable_axes={'params': 0}, split_rngs={'params': True}, length=2)
      return blocks(Block(name='blocks'), x, None)[0].mean(1)
    block = nn.remat(Block) if self.kind == 'remat' else Block
    return block(name='block')(x).mean(1)


TRUNKS = {
  'mlp': Mlp(), 'general': General(), 'images': Images(), 'tokens': Tokens(), 'tied': Tokens(tied=True),
  'twice': Twice(), 'transformer': Transformer('plain'), 'remat': Transformer('remat'), 'scan': Transformer('scan'),
}


class Problem:
  """An objective of three tasks on a trunk: parameters, a batch, and every task's gradient by jacrev."""

  def __init__(self, trunk: nn.Module, rows: int = 4):
    keys = jax.random.split(jax.random.key(0), 6)
    self.batch = {'x': jax.random.normal(keys[0], (rows, 4)), 'y': jax.random.normal(keys[1], (rows, NUM_TASKS)),
                  'mask': jnp.ones((rows, NUM_TASKS), bool)}
    self.trunk = trunk
    variables = trunk.init(keys[2], self.batch['x'])
    width = trunk.apply(variables, self.batch['x']).shape[-1]
    self.params = {'trunk': variables['params'],
                   'heads': {f't{t}': jax.random.normal(key, (width,)) for t, key in enumerate(keys[3:])}}

  def __call__(self, params, batch, rng, step):
    del rng, step
    z = self.trunk.apply({'params': params['trunk']}, batch['x'])
    errors = [jnp.tanh(z @ params['heads'][f't{t}']) * (1 + t) - batch['y'][:, t] for t in range(NUM_TASKS)]
    mask = batch['mask'].astype(jnp.float32)
    sums = [jnp.sum(jnp.where(batch['mask'][:, t], errors[t] ** 2, 0)) for t in range(NUM_TASKS)]
    return Losses(jnp.stack(sums), mask.sum(0))

  def jacobian(self, batch=None):
    """{path: [T, *shape]} of all parameters."""
    batch = self.batch if batch is None else batch
    jac = jax.jit(jax.jacrev(lambda params: self(params, batch, None, 0).values))(self.params)
    return tree.flatten(jac)

  def expected(self, w, jac=None):
    """{path: gradient}: of the trunk weighted by w, of each head its own task's."""
    jac = self.jacobian() if jac is None else jac
    own = {f'heads/t{t}': t for t in range(NUM_TASKS)}
    return {path: x[own[path]] if path in own else jnp.tensordot(w, x, 1) for path, x in jac.items()}

  def gram(self, jac=None, keep='trunk/'):
    """G over the trunk."""
    jac = self.jacobian() if jac is None else jac
    return stacked.gramian({path: x for path, x in jac.items() if path.startswith(keep)})


def toy_weights(gram):
  """Weights that depend on every entry of a Gramian, of both signs."""
  share = gram.sum(1) / jnp.trace(gram)
  return share - 0.7 * share[0]


def toy(needs='gramian'):
  """A method whose weights are `toy_weights` of the Gramian, or the losses themselves."""
  if needs == 'jacobian':
    return base.from_jacobian(lambda jac, state, info: (stacked.combine(jac, toy_weights(stacked.gramian(jac))), None,
                                                        state), name='toy')
  if needs == 'losses':
    return base.from_weights(lambda state, info: (info.losses, state), name='toy', needs='losses')
  return base.from_weights(lambda state, info: (toy_weights(info.gramian), state), name='toy', needs='gramian')


def worst(found, expected):
  """The largest difference over the largest number."""
  found, expected = tree.flatten(found), tree.flatten(expected)
  assert found.keys() == expected.keys()
  scale = max(float(jnp.abs(x).max()) for x in expected.values())
  return max(float(jnp.abs(found[path] - expected[path]).max()) for path in expected) / scale
