"""Prompt tuning: P learnt vectors among the tokens, in front of the first layer or of every one.

Lester, Al-Rfou & Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021,
https://arxiv.org/abs/2104.08691; shallow and deep for images: Jia et al., "Visual Prompt Tuning", ECCV 2022,
https://arxiv.org/abs/2203.12119.

    shallow:  [x_1; Z] = block_1([x_0; P]), …            the prompts go through all layers
    deep:     [x_i; _] = block_i([x_{i-1}; P_i])         each layer has its own, and their outputs are dropped

A rule at site='tokens' whose match finds the blocks, r'block_\\d+$'. The vectors get in at `at` (0 = in front; 1 =
behind the class token of an image) at the input of a block, behind positions and embeddings, and are out again behind
the last block, so that features keep their shape; relative biases of attention are 0 for them, given positions count
on. P [length, D] ~ U(-bound, bound). Differs from the papers: prompts have no position of their own where the encoder
adds those to its embeddings, and a mean over tokens leaves them out.
"""
import dataclasses
from typing import Any, ClassVar

import jax

from mtjax.adapters.lora import uniform
from mtjax.adapters.method import Leaves, Method, check_sizes
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
  """Prompts at the blocks of a stack.  Parameters: tokens [length, D], at the first block or at each.

  Attributes:
    length: P.
    deep: whether every block has its own.
    at: the position of the first prompt.
    bound: of the initial values; None = (3 / D)^1/2, a variance of 1 / D.
  """
  length: int = 20
  deep: bool = False
  at: int = 0
  bound: float | None = None
  kinds: ClassVar = ('tokens',)
  ndim: ClassVar = {'tokens': 2}

  def __post_init__(self):
    check_sizes(self, 'length')
    if isinstance(self.at, bool) or not isinstance(self.at, int) or self.at < 0:
      raise ValueError(f'Prompt has at={self.at!r}; allowed is an integer >= 0.')

  def init(self, key: jax.Array, site: Site) -> Leaves:
    bound = (3 / site.d_in)**0.5 if self.bound is None else self.bound
    return {'tokens': uniform(key, (self.length, site.d_in), bound)}

  def apply(self, p: Leaves, x: Any, y: Any, site: Site) -> jax.Array:
    return p['tokens']

  def num_params(self, site: Site) -> int:
    return self.length * site.d_in
