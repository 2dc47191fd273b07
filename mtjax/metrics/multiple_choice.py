"""Multiple choice by likelihood.

Gao et al., "A Framework for Few-Shot Language Model Evaluation", 2021, https://github.com/EleutherAI/lm-evaluation-harness.

    acc = argmax_o log p(o | q)            acc_norm = argmax_o log p(o | q) / length_o
    acc_mutual_info = argmax_o log p(o | q) - log p(o)

outputs: [B, O], log p of each option given the question, summed over its tokens; label: int [B], the right option.
length: [B, O], bytes or characters of the option (not tokens, which depend on the tokeniser). Questions with fewer
options have outputs of -inf. Of equal options the first counts.
"""
import jax.numpy as jnp

from mtjax.metrics.base import Mean, MetricSpec
from mtjax.metrics.decode import check_kind

_KINDS = ('softmax', 'identity')


def acc(kind: str = 'softmax') -> Mean:
  """The share of questions whose likeliest option is right.

  Example:
    >>> metric = acc()
    >>> batch = {'label': np.array([0, 1]), 'mask': np.ones(2, bool)}
    >>> metric.compute(metric.update(metric.init(), np.array([[-3.0, -4.0], [-2.0, -8.0]]), batch))
    {'acc': 0.5}
  """
  return _choice('acc', kind, lambda outputs: outputs)


def acc_norm(length: str, kind: str = 'softmax') -> Mean:
  """The share of questions whose likeliest option per byte (or character) is right.

  Args:
    length: the batch's column [B, O] of the options' lengths; an option of length 0 is none.
    kind: the head's.

  Example:
    >>> metric = acc_norm(length='bytes')
    >>> batch = {'label': np.array([0, 1]), 'mask': np.ones(2, bool), 'bytes': np.array([[4, 4], [1, 8]])}
    >>> metric.compute(metric.update(metric.init(), np.array([[-3.0, -4.0], [-2.0, -8.0]]), batch))
    {'acc_norm': 1.0}
  """
  _check_column(length, 'length', 'acc_norm')
  norm = lambda outputs, length: jnp.where(length > 0, outputs / jnp.maximum(length, 1), -jnp.inf)
  return _choice('acc_norm', kind, norm, (length,))


def acc_mutual_info(unconditional: str, kind: str = 'softmax') -> Mean:
  """The share of questions whose right option gains most by the question.

  Args:
    unconditional: the batch's column [B, O] of log p(o) without the question.
    kind: the head's.
  """
  _check_column(unconditional, 'unconditional', 'acc_mutual_info')
  gain = lambda outputs, unconditional: jnp.where(outputs > -jnp.inf, outputs - unconditional, -jnp.inf)
  return _choice('acc_mutual_info', kind, gain, (unconditional,))


def _choice(name, kind, score, columns=()) -> Mean:
  check_kind(kind, _KINDS, name)
  right = lambda outputs, label, *read: jnp.argmax(score(outputs.astype(jnp.float32), *read), axis=-1) == label
  return Mean(MetricSpec(name, True, (0, 1)), right, columns=columns)


def _check_column(value, field, metric) -> None:
  if not isinstance(value, str) or not value:
    raise ValueError(f'{metric} has {field}={value!r}; allowed is the name of a column.')
