"""Adapters alone in a folder, without the encoder that they belong to.

    mtjax.interop.adapters.save('my-adapters', state, spec, base)
    state, spec = mtjax.interop.adapters.load('my-adapters', base)

adapters.safetensors holds the leaves of the state by their paths; adapters.json the spec, and the shapes of the base
with their hash, so that adapters are not put onto an encoder that they do not fit. What a method makes again from its
seed (VeRA's random factors) is not stored.
"""
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtjax import tree
from mtjax.adapters.spec import Spec
from mtjax.interop import _safetensors

ARRAYS, FACTS = 'adapters.safetensors', 'adapters.json'


def save(directory: str | pathlib.Path, state: Mapping[str, Any], spec: Spec, base: Any) -> None:
  """Writes a state of `mtjax.adapters`.

  Args:
    directory: made if need be.
    state: what is learnt.
    spec: of the state.
    base: the encoder's parameters, of which only the shapes are written.
  """
  directory = pathlib.Path(directory).expanduser()
  directory.mkdir(parents=True, exist_ok=True)
  flat, remade = tree.flatten(state), {}
  for rule in spec:
    own = {path.rpartition('/')[2]: x for path, x in flat.items() if path.startswith(f'stats/shared/{rule.name}/')}
    shapes = {leaf: list(x.shape) for leaf, x in own.items()}
    if shapes and rule.method.remake(shapes) is not None:
      remade[rule.name] = shapes
      flat = {path: x for path, x in flat.items() if not path.startswith(f'stats/shared/{rule.name}/')}
  _safetensors.write_file({path: np.asarray(x) for path, x in flat.items()}, directory / ARRAYS)
  shapes = _shapes(base)
  facts = {'format': 1, 'spec': spec.to_json(), 'base': {'hash': _hash(shapes), 'shapes': shapes}, 'remade': remade}
  (directory / FACTS).write_text(json.dumps(facts, indent=2) + '\n')


def load(directory: str | pathlib.Path, base: Any) -> tuple[dict[str, Any], Spec]:
  """Reads a state and its spec.

  Args:
    directory: of `save`.
    base: the parameters of the encoder that is to be adapted.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the base is not of the shapes of that which was adapted; the first differences are listed.
  """
  directory = pathlib.Path(directory).expanduser()
  if not (directory / FACTS).exists() or not (directory / ARRAYS).exists():
    raise FileNotFoundError(f'{directory} holds no adapters: it lacks {FACTS} or {ARRAYS}.')
  facts = json.loads((directory / FACTS).read_text())
  shapes, wanted = _shapes(base), facts['base']['shapes']
  if _hash(shapes) != facts['base']['hash']:
    lines = [f'{path} is {shapes.get(path, "missing")}, was {wanted.get(path, "missing")}'
             for path in sorted({*shapes, *wanted}) if shapes.get(path) != wanted.get(path)]
    more = f' and {len(lines) - 5} more' if len(lines) > 5 else ''
    raise ValueError(f'The adapters in {directory} were made for another encoder: {"; ".join(lines[:5])}{more}.')
  spec = Spec.from_json(facts['spec'])
  entries = _safetensors.header(directory / ARRAYS)
  flat = {path: jnp.asarray(_safetensors.read(path, entry)) for path, entry in entries.items()}
  for rule, leaves in facts['remade'].items():
    flat |= {f'stats/shared/{rule}/{leaf}': x for leaf, x in spec[rule].method.remake(leaves).items()}
  empty = {'adapters': {}, 'shared': {}, 'base': {}, 'stats': {'sites': {}, 'shared': {}}}
  found = tree.unflatten(flat)
  return {**empty, **found, 'stats': {**empty['stats'], **found.get('stats', {})}}, spec


def _shapes(base: Any) -> dict[str, list[int]]:
  return {path: list(jax.numpy.shape(x)) for path, x in sorted(tree.flatten(base).items())}


def _hash(shapes: Mapping[str, list[int]]) -> str:
  return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16]
