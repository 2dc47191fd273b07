"""LoRAHub: a new task as a weighted sum of other tasks' LoRAs, with weights found without gradients.

Huang et al., "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition", COLM 2024,
https://arxiv.org/abs/2307.13269.

    A = sum_i w_i A_i,   B = sum_i w_i B_i,     minimise  loss(w) + l1 mean|w|    over w in [-bound, bound]^N, w_0 = 0

Factors are added up (`average`), with cross terms. Differs from the paper's code, which has a portfolio of optimizers
of another library: a (1+1) evolution strategy with the one-fifth rule (Rechenberg, 1973) within the same budget.
"""
from collections.abc import Callable

import numpy as np


def lora_hub(loss: Callable[[np.ndarray], float], num_loras: int, *, evaluations: int = 40, bound: float = 1.5,
             l1: float = 0.05, step: float = 0.5, seed: int = 0) -> tuple[np.ndarray, float]:
  """Searches weights.

  Args:
    loss: weights [N] -> the few-shot loss of `average(state, spec, weights)`.
    num_loras: N.
    evaluations: how often the loss is computed.
    bound: of each weight.
    l1: of the penalty.
    step: deviation of the first changes.
    seed: of the draws.

  Returns:
    (the best weights [N], their loss with the penalty).

  Example:
    >>> weights, _ = lora_hub(lambda w: float(((w - 1) ** 2).sum()), 2, evaluations=200)
    >>> bool(np.abs(weights - 1).max() < 0.1)
    True
  """
  if num_loras < 1 or evaluations < 1:
    raise ValueError(f'lora_hub got num_loras={num_loras} and evaluations={evaluations}; allowed are integers >= 1.')
  if not (bound > 0 and l1 >= 0 and step > 0):
    raise ValueError(f'lora_hub got bound={bound}, l1={l1}, step={step}; allowed are bound > 0, l1 >= 0, step > 0.')
  rng, best = np.random.default_rng(seed), np.zeros(num_loras)
  score = lambda w: float(loss(w)) + l1 * float(np.abs(w).mean())
  lowest = score(best)
  for _ in range(evaluations - 1):
    tried = np.clip(best + step * rng.standard_normal(num_loras), -bound, bound)
    found = score(tried)
    step *= np.exp(0.8 if found < lowest else -0.2) ** 0.5  # neither grows nor shrinks where one in five succeeds
    if found < lowest:
      best, lowest = tried, found
  return best, lowest
