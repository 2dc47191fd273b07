r"""What the encoders cost beyond their arithmetic, what a cache saves in decoding, and a scan in compiling.

python -m experiments.benchmarks.encoders [--families=gpt2,swin] [--parts=overhead,decoding,compiling] [--rounds=5]
    [--output=FILE.json] [--dtype=bfloat16] [--implementation=cudnn]

overhead   forward and training step of each family, as ratios to its plain counterpart: a jitted function with the same
           products of matrices, convolutions, softmaxes and recurrences on the same kernels, and nothing else (no norm,
           activation, bias, mask, dropout or residual sum). Programs alternate; the ratio is the median over rounds of
           the ratio of medians. Target: <= 1.3 on a CPU.
decoding   tokens a second with a cache, over those without.
compiling  tracing, lowering and compiling of 24 layers, as ratios of a scan to a loop. Target: <= 1/4.

Each family is a row, written as soon as it is measured; with --output, rows that are in the file already stay and are
not measured again, so that a run goes on where it was stopped (delete the file to start afresh). Ratios come by two
clocks: the wall's, and on a CPU that of the processors, which other programs on the machine disturb less; `load` is how
many processes wanted a processor before and after. On a GPU: --dtype=bfloat16 --implementation=cudnn.
"""
import json
import pathlib

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.benchmarks._encoders import clocks, compiling, decoding, overhead
from experiments.benchmarks._encoders.families import FAMILIES
from experiments.benchmarks._encoders.plain_transformers import How
from experiments.common import current_commit, provenance
from mtjax import tree

_PARTS = flags.DEFINE_list('parts', ['overhead', 'decoding', 'compiling'], 'Which parts.')
_FAMILIES = flags.DEFINE_list('families', [], 'Only these; all by default.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of overhead; the other parts take fewer.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Timed calls a round.')
_DEPTH = flags.DEFINE_integer('depth', 24, 'Layers, where compiling is measured.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the products.')
_IMPLEMENTATION = flags.DEFINE_enum('implementation', 'auto', ['auto', 'xla', 'chunked', 'cudnn'], 'Of the attention.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the result; rows in it are kept.')

PARTS = {'overhead': tuple(FAMILIES), 'decoding': ('gpt2', 'llama', 't5'), 'compiling': tuple(compiling.MODELS)}


def measure(part: str, family: str) -> dict:
  """One row, with where it comes from."""
  how = dict(dtype=jnp.dtype(_DTYPE.value), implementation=_IMPLEMENTATION.value)
  rounds, before = _ROUNDS.value if part == 'overhead' else max(_ROUNDS.value // 2, 1), clocks.load()
  if part == 'overhead':
    row = overhead.measure(FAMILIES[family](**how), How(how['dtype'], how['implementation'] == 'cudnn'), rounds,
                           _REPEATS.value)
  elif part == 'decoding':
    row = decoding.measure(family, rounds, 1, **how)
  else:
    row = compiling.measure(family, rounds, _DEPTH.value, **how)
  return row | {'commit': current_commit(), 'rounds': rounds, 'load': [before, clocks.load()]}


def table(part: str, rows: dict) -> str:
  """The rows of one part as text; of the two clocks, the processors' where there is one."""
  mark = '_cpu_clock' if 'cpu' in clocks.clocks() else ''
  if part == 'decoding':
    cells = [(name, f'{row["tokens_per_second"]:.0f}', f'{row["tokens_per_second_without"]:.0f}',
              f'{row["times_faster"]:.1f}', f'{row["equal_tokens"]:.2f}') for name, row in rows.items()]
    return tree.align([('decoding', 'tokens/s', 'without cache', 'x', 'equal'), *cells])
  if part == 'compiling':
    cells = [(name, program, arm, f'{value["seconds" + mark]["total"]:.2f}', f'{value["ratio" + mark]:.2f}')
             for name, row in rows.items() for program in ('forward', 'step') for arm, value in row[program].items()]
    return tree.align([('compiling', '', 'layers', 's', 'x loop'), *cells])
  cells = [(name, *(f'{row[program][key]:.{digits}f}' for program in ('forward', 'step')
                    for key, digits in (('ms', 1), ('ratio', 2), (f'ratio{mark}', 2)))) for name, row in rows.items()]
  clock = 'x cpu' if mark else 'x'
  return tree.align([('overhead', 'forward ms', 'x', clock, 'step ms', 'x', clock), *cells])


def main(_):
  """Measures, prints tables."""
  unknown = sorted({*_PARTS.value} - {*PARTS}) + sorted({*_FAMILIES.value} - {*FAMILIES})
  if unknown:
    raise app.UsageError(f'Unknown: {", ".join(unknown)}. Parts: {", ".join(PARTS)}. Families: {", ".join(FAMILIES)}.')
  jax.config.update('jax_enable_compilation_cache', False)  # compile times are those of compiling
  path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
  result = json.loads(path.read_text()) if path and path.exists() else {}
  result |= {**provenance('experiments.benchmarks.encoders'), 'dtype': _DTYPE.value,
             'implementation': _IMPLEMENTATION.value}
  for part in _PARTS.value:
    rows = result.setdefault(part, {})
    for family in PARTS[part]:
      if family in rows or (_FAMILIES.value and family not in _FAMILIES.value):
        continue
      rows[family] = measure(part, family)
      print(f'\n{table(part, {family: rows[family]})}', flush=True)
      if path:
        path.write_text(json.dumps(result, indent=1) + '\n')
      jax.clear_caches()
    print(f'\n{table(part, rows)}', flush=True)


if __name__ == '__main__':
  app.run(main)
