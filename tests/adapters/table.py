"""Every method on a tiny encoder, with what is promised of it: being on this list is the entry ticket."""
import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from mtjax import adapters
from mtjax.encoders import BERT

TASKS = ('a', 'b', 'c')
ENCODER = BERT(vocab_size=20, width=8, depth=2, heads=2, hidden=16, max_length=16)
TOKENS = np.array([[3, 4, 5, 0], [6, 7, 0, 0], [8, 9, 10, 11], [12, 13, 14, 0], [3, 4, 5, 0]], np.int32)
IDS = np.array([0, 2, 1, 0, 1], np.int32)
PROJECTIONS, LAYERS, ANY = r'attn/(query|value|out)$', r'(attn|mlp)$', r'block_\d+/'


@dataclasses.dataclass(frozen=True)
class Case:
  """A method as rules, and its promises.

  Attributes:
    rules: as a config writes them, without a bank.
    identity: whether nothing changes at first.
    merges: whether it merges; 'lost' = it does, but not back.
    num_params: of one task, worked out by hand for the encoder above (width 8, hidden 16, two layers).
    common: how many of these all tasks share.
  """
  rules: tuple
  num_params: int
  identity: bool = True
  merges: bool | str = True
  common: int = 0


def _rule(site, match, name, **fields):
  return dict(site=site, match=match, method=dict(name=name, **fields))


CASES = {
  # 6 projections of 8 x 8
  'lora': Case((_rule('output', PROJECTIONS, 'lora', rank=2, alpha=4.0),), 6 * 2 * 16),
  'rs_lora': Case((_rule('output', PROJECTIONS, 'rs_lora', rank=2),), 6 * 2 * 16),
  'dora': Case((_rule('output', PROJECTIONS, 'dora', rank=2),), 6 * (2 * 16 + 8), merges='lost'),
  'pissa': Case((_rule('output', PROJECTIONS, 'pissa', rank=2),), 6 * 2 * 16),
  'vera': Case((_rule('output', r'(query|fc1)$', 'vera', rank=4),), 2 * (4 + 8) + 2 * (4 + 16)),
  # keys and values 8 each, hidden 16; in two layers
  'ia3': Case(tuple({k: v for k, v in rule.items() if k != 'bank'} for rule in adapters.ia3_rules()), 2 * (8 + 8 + 16)),
  # a layer: 4 x 8 in attention, 16 + 8 in the MLP, 2 x 8 of the norms
  'bitfit': Case((_rule('output', ANY, 'bitfit'),), 2 * (32 + 24 + 16)),
  'ln_tuning': Case((_rule('output', r'norm', 'ln_tuning'),), 5 * 16),
  'ssf': Case((_rule('output', ANY, 'ssf'),), 2 * 2 * (32 + 24 + 16), identity=False),
  # down 8 x 2 + 2, up 2 x 8 + 8
  'houlsby': Case((_rule('wrap', LAYERS, 'houlsby', rank=2),), 4 * 42, identity=False, merges=False),
  'pfeiffer': Case((_rule('output', r'norm2$', 'pfeiffer', rank=2, init_scheme='lora', activation='gelu'),), 2 * 42, merges=False),
  'parallel': Case((_rule('wrap', LAYERS, 'parallel', rank=2, activation='gelu'),), 4 * 42, merges=False),
  'scaled_parallel': Case((dict(_rule('span', r'mlp/fc2$', 'scaled_parallel', rank=2, activation='gelu'), start=r'mlp/fc1$'),), 2 * 42,
                          merges=False),
  'prefix': Case((_rule('kv', r'attn$', 'prefix', length=3),), 2 * 2 * 3 * 8, identity=False, merges=False),
  # by an MLP: 3 x 8, 8 x 5 + 5 of all layers; 5 x 16 + 16 a layer
  'prefix_mlp': Case((_rule('kv', r'attn$', 'prefix', length=3, hidden=5),), 24 + 45 + 2 * 96, identity=False,
                     merges=False),
  'mam': Case(tuple({k: v for k, v in rule.items() if k != 'bank'}
                    for rule in adapters.mam(length=3, hidden=None, rank=2)), 2 * 48 + 2 * 42, identity=False, merges=False),
  'prompt_deep': Case((_rule('tokens', r'block_\d+$', 'prompt', length=3, deep=True, at=1),), 2 * 24, identity=False,
                      merges=False),
  # m = 2: down 9 x 4, kernel, scale and shift 2 x 5, up 3 x 8
  'conv_adapter': Case((_rule('wrap', r'mlp$', 'conv_adapter', reduction=4, width=3),), 2 * (36 + 10 + 24), merges=False),
  # norms of 8 besides
  'normed_bottleneck': Case((_rule('wrap', LAYERS, 'normed_bottleneck', rank=2),), 4 * (42 + 16), merges=False),
  # a gate 8 x 2, two LoRAs
  'lora_moe': Case((_rule('output', PROJECTIONS, 'lora_moe', experts=2, rank=2),), 6 * (16 + 2 * 2 * 16), merges=False),
  # n = 2, width 2: 3 x (8 + 2) a site, and the rule of 2 x 2 x 2
  'compacter': Case((_rule('wrap', LAYERS, 'compacter', n=2, rank=2),), 4 * 30 + 8, identity=False, merges=False,
                    common=8),
}


def spec_of(name: str, bank=None) -> adapters.Spec:
  """A case as a spec, with a set of parameters a task."""
  bank = adapters.Bank(tasks=TASKS) if bank is None else bank
  return adapters.Spec([{**rule, 'bank': bank} for rule in CASES[name].rules])


def base_params(encoder=ENCODER, inputs=TOKENS):
  """The encoder's parameters without its initialisers, which are slow to compile: noise, and scales near 1."""
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)['params']
  return noise(jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.full(x.shape, float(path[-1].key == 'scale'), x.dtype), shapes), 0.3)


def noise(tree, size=0.1):
  """A tree with noise added, drawn by numpy from the leaves' paths."""
  def add(path, x):
    rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    return x + size * rng.standard_normal(x.shape).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(add, tree)


def busy(state):
  """A state that does something: noise on all that is learnt."""
  return {**state, 'adapters': noise(state['adapters']), 'shared': noise(state['shared'])}
