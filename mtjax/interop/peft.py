"""LoRA checkpoints of Hugging Face's PEFT <-> ours.  https://huggingface.co/docs/peft/developer_guides/checkpoint.

    state, spec = mtjax.interop.peft.load('their-lora', module, params)
    mtjax.interop.peft.save('my-lora', state, spec, module, task='a')

A directory holds adapter_config.json and adapter_model.safetensors, with 'base_model.model.<module>.lora_A.weight'
(r, in) and 'lora_B.weight' (out, r) a layer: our A and B transposed. Their layers are found by the table of the
encoder's family (`mtjax.interop.hf`); a layer that is several of ours (GPT-2's query, key and value) is cut. LoRA, its
rank-stabilised form and DoRA are read; weights of the base that are stored beside (modules_to_save) are not.
"""
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mtjax import tree
from mtjax.adapters import DoRA, LoRA, RsLoRA, Rule, Spec, output, select
from mtjax.adapters.intercept import MARK
from mtjax.adapters.merging import sites_of
from mtjax.interop import _safetensors, hf

ARRAYS, CONFIG, PREFIX = 'adapter_model.safetensors', 'adapter_config.json', 'base_model.model.'
_PART = re.compile(r'^(?P<layer>.*)\.lora_(?P<part>A|B|magnitude_vector)(\.default)?(\.weight)?$')


def load(directory: str | pathlib.Path, module: nn.Module, params: Any) -> tuple[dict[str, Any], Spec]:
  """Reads a LoRA checkpoint for an encoder.

  Args:
    directory: of the checkpoint.
    module: the encoder, of a family that `hf.load` knows.
    params: its parameters.

  Returns:
    (state, spec) for `mtjax.adapters.bind`: a rule a rank and scale that occurs, one set for all tasks (`stack` makes a
    bank of several checkpoints).

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another method than LoRA, or layers that the encoder does not have; all are listed.
  """
  directory = pathlib.Path(directory).expanduser()
  for name in (CONFIG, ARRAYS):
    if not (directory / name).exists():
      raise FileNotFoundError(f'{directory} is no PEFT checkpoint: it has no {name}.')
  config = json.loads((directory / CONFIG).read_text())
  if config.get('peft_type') != 'LORA':
    raise ValueError(f'{directory / CONFIG} has peft_type={config.get("peft_type")!r}; allowed is LORA.')
  if config.get('bias', 'none') != 'none' or config.get('modules_to_save'):
    raise ValueError(f'{directory / CONFIG} has bias={config.get("bias")!r} and '
                     f"modules_to_save={config.get('modules_to_save')!r}; allowed is 'none' of both.")
  entries, layers, unknown = _safetensors.header(directory / ARRAYS), {}, []
  table, flat = _table(module), tree.flatten(params)
  for name, entry in entries.items():
    match = _PART.match(name.removeprefix(PREFIX))
    layer = match and _known(match['layer'], table, module)
    if not layer:
      unknown.append(name)
      continue
    layers.setdefault(layer, {})[match['part']] = _safetensors.read(name, entry).astype(np.float32)
  wrong = [f'{layer} has {sorted(parts)}' for layer, parts in layers.items() if not {'A', 'B'} <= set(parts)]
  if unknown or wrong:
    raise ValueError(f'{directory} holds what {type(module).__name__} has no place for: '
                     f'{"; ".join([*unknown, *wrong])}.')
  groups: dict[Any, dict[str, np.ndarray]] = {}
  paths: dict[Any, list[str]] = {}
  for layer, parts in layers.items():
    rank = parts['A'].shape[0]
    alpha = float(_by_pattern(config.get('alpha_pattern'), layer, config.get('lora_alpha', rank)))
    for path, leaves in _ours(layer, parts, table[layer], flat).items():
      paths.setdefault((rank, alpha), []).append(path)
      groups.setdefault((rank, alpha), {}).update({f'{path}/{MARK}%/{leaf}': x for leaf, x in leaves.items()})
  kind = DoRA if config.get('use_dora') else RsLoRA if config.get('use_rslora') else LoRA
  rules, adapters = [], {}
  for i, ((rank, alpha), leaves) in enumerate(groups.items()):
    name = 'lora' if not i else f'lora_{i}'
    match = '^(' + '|'.join(map(re.escape, paths[rank, alpha])) + ')$'
    rules.append(Rule(site=output(match), method=kind(rank=rank, alpha=alpha), name=name))
    adapters |= {path.replace(f'{MARK}%', MARK + name): jnp.asarray(x) for path, x in leaves.items()}
  state = {'adapters': tree.unflatten(adapters), 'shared': {}, 'base': {}, 'stats': {'sites': {}, 'shared': {}}}
  return state, Spec(rules)


def save(directory: str | pathlib.Path, state: Mapping[str, Any], spec: Spec, module: nn.Module, *,
         task: int | str | None = None, base_model: str | None = None) -> None:
  """Writes a LoRA checkpoint that PEFT reads.

  Args:
    directory: made if need be.
    state, spec: of `mtjax.adapters`, LoRA, RsLoRA or DoRA alone.
    module: the encoder.
    task: whose adapters; None where there is one set.
    base_model: name of the base, for PEFT to find it.

  Raises ValueError for other methods, and for layers that are part of one of theirs (GPT-2's query).
  """
  if any(rule.bank.per != 'shared' for rule in spec):
    if task is None:
      raise ValueError("save needs task=, a name or an id: a PEFT checkpoint holds one task's adapters.")
    state, spec = select(state, spec, task)
  kinds = {type(rule.method) for rule in spec}
  if len(kinds) != 1 or not kinds <= {LoRA, RsLoRA, DoRA}:
    names = ', '.join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f'A PEFT checkpoint of ours holds one of LoRA, RsLoRA, DoRA, but the spec has {names}.')
  theirs = {ours: layer for layer, ours in _table(module).items() if isinstance(ours, str)}
  arrays, ranks, alphas = {}, {}, {}
  for rule in spec:
    for path, leaves, _, layers in sites_of(state, rule):
      if layers or path not in theirs:
        raise ValueError(f'{path!r} is no layer of the published {type(module).__name__}, or part of one; it cannot be '
                         f'written as PEFT has it.')
      layer = theirs[path]
      arrays[f'{PREFIX}{layer}.lora_A.weight'] = np.asarray(leaves['a']).T
      arrays[f'{PREFIX}{layer}.lora_B.weight'] = np.asarray(leaves['b']).T
      if 'magnitude' in leaves:
        arrays[f'{PREFIX}{layer}.lora_magnitude_vector.weight'] = np.asarray(leaves['magnitude'])
      ranks[layer] = rule.method.rank
      alphas[layer] = rule.method.rank if rule.method.alpha is None else rule.method.alpha
  rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
  kind = kinds.pop()
  config = {
    'peft_type': 'LORA', 'task_type': None, 'base_model_name_or_path': base_model, 'inference_mode': True, 'r': rank,
    'lora_alpha': alpha, 'lora_dropout': spec.rules[0].method.dropout_rate, 'bias': 'none', 'fan_in_fan_out': False,
    'use_rslora': kind is RsLoRA, 'use_dora': kind is DoRA, 'target_modules': sorted(ranks), 'modules_to_save': None,
    'rank_pattern': {layer: r for layer, r in ranks.items() if r != rank},
    'alpha_pattern': {layer: a for layer, a in alphas.items() if a != alpha}}
  directory = pathlib.Path(directory).expanduser()
  directory.mkdir(parents=True, exist_ok=True)
  _safetensors.write_file(arrays, directory / ARRAYS)
  (directory / CONFIG).write_text(json.dumps(config, indent=2) + '\n')


def _table(module: nn.Module) -> dict[str, str | tuple[str, ...]]:
  """{their layer: our module, or modules} of all layers with a kernel."""
  family = hf.family_of(module)
  flat = {row.theirs: row.ours for row in family.rows(module) if isinstance(row.theirs, str)}
  prefix = family.base if getattr(module, 'head', None) is None else ''
  found: dict[str, str | tuple[str, ...]] = {}
  for theirs, ours in flat.items():
    ends = [path.endswith('/kernel') for path in ((ours,) if isinstance(ours, str) else ours)]
    if theirs.endswith('.weight') and all(ends):
      cut = lambda path: path.removesuffix('/kernel')
      found[theirs.removesuffix('.weight').removeprefix(prefix)] = (
        cut(ours) if isinstance(ours, str) else tuple(map(cut, ours)))
  return found


def _known(layer: str, table: Mapping[str, Any], module: nn.Module) -> str | None:
  """A layer of the table by this name, with the name of the bare model in front or not."""
  base = hf.family_of(module).base
  return next((name for name in (layer, base + layer, layer.removeprefix(base)) if name in table), None)


def _ours(layer: str, parts: Mapping[str, np.ndarray], ours: str | tuple[str, ...],
          flat: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
  """{our module: leaves}; B is cut where their layer is several of ours."""
  several = (ours,) if isinstance(ours, str) else ours
  a, b = parts['A'].T, parts['B'].T
  sizes = [flat[f'{path}/kernel'].size // a.shape[0] for path in several]
  if sum(sizes) != b.shape[1] or any(flat[f'{path}/kernel'].size % a.shape[0] for path in several):
    raise ValueError(f'{layer} has lora_A {list(a.T.shape)} and lora_B {list(b.T.shape)}, but our {", ".join(several)} '
                     f'{"has" if len(several) == 1 else "have"} {sizes} outputs of {a.shape[0]} inputs.')
  ends = np.cumsum(sizes)[:-1]
  found = {path: {'a': a, 'b': piece} for path, piece in zip(several, np.split(b, ends, axis=1))}
  if 'magnitude_vector' in parts:
    for path, piece in zip(several, np.split(parts['magnitude_vector'].reshape(-1), ends)):
      found[path]['magnitude'] = piece
  return found


def _by_pattern(patterns: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
  """The value of the pattern that a layer's name ends with, as PEFT has it."""
  for pattern, value in (patterns or {}).items():
    if re.match(rf'(.*\.)?({pattern})$', layer):
      return value
  return default
