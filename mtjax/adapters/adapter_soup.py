"""AdapterSoup: for a new domain, the mean of the adapters of the domains that are most like it. No training.

Chronopoulou et al., "AdapterSoup: Weight Averaging to Improve Generalization of Pretrained Language Models", Findings
of EACL 2023, https://arxiv.org/abs/2302.07027.

    theta = 1 / k sum of theta_i over the k domains i whose mean sentence embedding is nearest to that of the texts

by cosine similarity. Averaging is only meaningful for adapters that began alike.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.adapters.operations import average
from mtjax.adapters.spec import Spec


def nearest_domains(domains: np.ndarray, texts: np.ndarray, k: int) -> np.ndarray:
  """Weights [T]: 1/k for the k domains nearest to the texts, else 0.

  Args:
    domains: [T, D], a mean embedding each.
    texts: [N, D], embeddings of texts of the new domain.
    k: how many.

  Example:
    >>> nearest_domains(np.eye(3), np.array([[3.0, 2.0, 0.0]]), 2).tolist()
    [0.5, 0.5, 0.0]
  """
  domains, query = np.asarray(domains), np.asarray(texts).mean(0)
  if not 1 <= k <= len(domains):
    raise ValueError(f'nearest_domains got k={k}; allowed is 1 … {len(domains)}, the number of domains.')
  similar = domains @ query / np.maximum(np.linalg.norm(domains, axis=1) * np.linalg.norm(query), 1e-12)
  weights = np.zeros(len(domains))
  weights[np.argsort(-similar, kind='stable')[:k]] = 1 / k
  return weights


def adapter_soup(state: Mapping[str, Any], spec: Spec, domains: np.ndarray, texts: np.ndarray,
                 k: int = 3) -> tuple[dict[str, Any], Spec]:
  """One set of parameters for texts of a new domain.

  Args:
    state, spec: with a set of parameters a domain.
    domains, texts, k: see `nearest_domains`.
  """
  return average(dict(state), spec, nearest_domains(domains, texts, k).tolist())
