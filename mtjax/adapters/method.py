"""What a method is: one file, a frozen dataclass of hyper-parameters, the mathematics of one row and one parameter set.

A method never sees tasks, banks or batches. It says what parameters one site needs (`init`), and what they do to one
row (`apply`); the framework gives every row the parameters of its task by `jax.vmap`. What is shared by all sites of a
rule (`shared`), what is not learnt (`fixed`, `shared_fixed`), what can be worked out once a parameter set rather than
once a row (`prepare`) and how it merges (`fold`) are optional.

    class Shift(Method):                                    # y <- y + b
      ndim = {'b': 1}
      def init(self, key, site): return {'b': jnp.zeros(site.d_out)}
      def apply(self, p, x, y, site): return y + site.like_out(along(p['b'], site.flat_out(y)))
      def fold(self, p, own, kind): return {**own, 'bias': own['bias'] + p['b'].reshape(own['bias'].shape)}
      def num_params(self, site): return site.d_out
"""
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax

from mtjax.adapters.sites import Site
from mtjax.context import Ctx

Leaves = dict[str, jax.Array]


class Method:
  """The base of all methods, which are frozen dataclasses.

  Attributes:
    kinds: sites that it can be at.
    ndim: {leaf: axes of one parameter set}, of the leaves of `init` and `shared`.
    common: leaves of `shared` of which there is one for all tasks, whatever the bank.
    split_axis: {leaf: axis that belongs to a part of the features}, for banks with splits (MHR).
    reenters: whether `apply` gives a new input on which the module runs again, in place of an output.
    reads_weights: whether `init` looks at the values in `site.params`; else it finds shapes there.
    alone: whether nothing else may change the same output, because the method computes it anew.
    mergeable: whether `fold` exists.
    penalises: whether `apply` gives a pair, the result and what `penalty` reads of the row.
    dropout_rate: of the input that `apply` gets, in training.
    leaf_dropout: {leaf: rate}, of parameters themselves, in training.
  """
  kinds: ClassVar[tuple[str, ...]] = ('output',)
  ndim: ClassVar[Mapping[str, int]] = {}
  common: ClassVar[frozenset[str]] = frozenset()
  split_axis: ClassVar[Mapping[str, int]] = {}
  reenters: ClassVar[bool] = False
  reads_weights: ClassVar[bool] = False
  alone: ClassVar[bool] = False
  penalises: ClassVar[bool] = False
  dropout_rate = 0.0

  @property
  def leaf_dropout(self) -> Mapping[str, float]:
    return {}

  def fits(self, site: Site) -> bool:
    """Whether a site that the pattern found is one of this method's; others are passed over."""
    return True

  def init(self, key: jax.Array, site: Site) -> Leaves:
    """One parameter set for one site."""
    raise NotImplementedError

  def fixed(self, site: Site) -> Leaves:
    """What a site needs besides and does not learn; the same for all tasks."""
    return {}

  def shared(self, key: jax.Array, sites: Sequence[Site]) -> Leaves:
    """One parameter set that all sites of a rule share; names differ from those of `init`."""
    return {}

  def shared_fixed(self, sites: Sequence[Site]) -> Leaves:
    """The same, not learnt."""
    return {}

  def remake(self, shapes: Mapping[str, Sequence[int]]) -> Leaves | None:
    """What `shared_fixed` gave, from its shapes alone; None = it cannot be made again, and is saved."""
    return None

  def prepare(self, p: Leaves, site: Site) -> Leaves:
    """Parameter set -> what takes its place in `apply`; once a set where that is cheaper than once a row."""
    return p

  def plain(self) -> 'Method | None':
    """The method whose parameters `prepare` makes, where that is one of its own: a prefix without its MLP."""
    return None

  def apply(self, p: Leaves, x: Any, y: Any, site: Site) -> Any:
    """One row.  At output, wrap and span: x [..., *in_shape], y [..., *out_shape] -> the new y (or the new input).

    At input: y is None -> the new x. At kv: x, y None -> keys, values [P, G, K] each. At tokens: -> [P, D].
    """
    raise NotImplementedError

  def penalty(self, noted: Any, ctx: Ctx | None) -> jax.Array:
    """A scalar that is added to the loss, of what `apply` noted of all rows [B, …]."""
    raise NotImplementedError

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    """The module's own parameters with the adapter in them: the module alone then gives what both gave."""
    raise NotImplementedError

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    """The inverse of `fold`."""
    raise NotImplementedError

  def num_params(self, site: Site) -> int:
    """How many numbers of one parameter set are at a site."""
    raise NotImplementedError

  def num_shared(self, sites: Sequence[Site]) -> int:
    """How many numbers of one parameter set all sites share; without `common` ones."""
    return 0

  def num_common(self, sites: Sequence[Site]) -> int:
    """How many numbers all sites and all tasks share."""
    return 0

  @property
  def mergeable(self) -> bool:
    return type(self).fold is not Method.fold

  @property
  def prepares(self) -> bool:
    """Whether `prepare` does anything."""
    return type(self).prepare is not Method.prepare


def check_positive(method: Method, *fields: str) -> None:
  """Raises ValueError unless these fields are numbers > 0."""
  for field in fields:
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
      raise ValueError(f'{type(method).__name__} has {field}={value!r}; allowed is a number > 0.')


def check_sizes(method: Method, *fields: str) -> None:
  """Raises ValueError unless these fields are integers >= 1."""
  for field in fields:
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(f'{type(method).__name__} has {field}={value!r}; allowed is an integer >= 1.')


def check_rate(method: Method) -> None:
  """Raises ValueError unless 0 <= dropout_rate < 1."""
  if not isinstance(method.dropout_rate, (int, float)) or not 0 <= method.dropout_rate < 1:
    raise ValueError(f'{type(method).__name__} has dropout_rate={method.dropout_rate!r}; allowed is 0 … 1 (exclusive).')


def need_bias(own: Leaves, method: Method) -> jax.Array:
  """The module's bias, which merging changes; raises ValueError for a module without one."""
  if 'bias' not in own:
    raise ValueError(f'{type(method).__name__} cannot be merged into a module without a bias (it has '
                     f'{", ".join(own)}): build the encoder with biases, and give them zeros.')
  return own['bias']
