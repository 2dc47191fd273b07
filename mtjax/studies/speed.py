"""The table of a run's report that says how fast it was, a row a stage: what `performance` in run.json holds."""
from collections.abc import Mapping
from typing import Any

from mtjax.studies import html
from mtjax.studies.run_record import Record

# On training lines and in this table; no curve of their own.
IN_TABLE = ('time/step_ms', 'time/compile_seconds', 'time/flops_per_step', 'memory/peak_bytes')
_UNITS = ('', ' k', ' M', ' G', ' T', ' P', ' E')


def section(record: Record) -> tuple[str, str, Any]:
  """(anchor, title, body); the body is None where the run recorded nothing."""
  recorded = record.run.get('performance')
  stages = {stage: facts for stage, facts in recorded.items() if isinstance(facts, Mapping)} \
    if isinstance(recorded, Mapping) else {}
  if not stages:
    return 'speed', 'Speed', None
  tokens = any('tokens_per_second' in facts for facts in stages.values())
  header = ['stage', 'compile, s', 'step, ms', 'examples/s', *(['tokens/s'] if tokens else []), 'FLOPs a step', 'MFU',
            'peak memory a device']
  rows = [[html.name(stage), html.number(facts.get('compile_seconds'), 3), html.number(facts.get('step_ms'), 3),
           html.number(facts.get('examples_per_second'), 3),
           *([html.number(facts.get('tokens_per_second'), 3)] if tokens else []),
           scaled(facts.get('flops_per_step')), _share(facts.get('mfu')), _memory(facts.get('peak_memory_bytes'))]
          for stage, facts in stages.items()]
  return 'speed', 'Speed', [html.table(header, rows), html.tag('p', _legend(stages), class_='muted')]


def scaled(number: float | None, step: int = 1000, units: tuple[str, ...] = _UNITS) -> str:
  """A large number in three digits: 1.23 G.

  Example:
    >>> scaled(1_234_000_000), scaled(None)
    ('1.23 G', '–')
  """
  if number is None:
    return '–'
  power, value = 0, float(number)
  while abs(value) >= step and power < len(units) - 1:
    power, value = power + 1, value / step
  return f'{html.number(value, 2)}{units[power]}'


def _legend(stages: Mapping[str, Mapping[str, Any]]) -> str:
  """What the columns mean in this run."""
  facts = list(stages.values())
  told = ['Of the median window between two log steps; evaluations and checkpoints are left out.',
          'FLOPs are those of matrix products and convolutions, on all devices.']
  if ways := sorted({fact['tokens_counted'] for fact in facts if fact.get('tokens_counted')}):
    told.append(f'Tokens: {", ".join(ways)}.')
  known = any(fact.get('peak_flops_per_device') for fact in facts)
  told.append('MFU: FLOPs a second over the peak of the devices'
              + ('.' if known else ', which is not known of these.'))
  if ways := sorted({fact['peak_memory_of'] for fact in facts if fact.get('peak_memory_of')}):
    told.append('Memory: ' + ', '.join({
      'device': 'the most in use at once, by the account of the device',
      'compiled step': 'what the compiled step needs, since the device keeps no account'}.get(way, way)
      for way in ways) + '.')
  return ' '.join(told)


def _share(value: float | None) -> str:
  return '–' if value is None else f'{100 * value:.1f} %'


def _memory(value: float | None) -> str:
  return '–' if value is None else scaled(value, 1024, (' B', ' KiB', ' MiB', ' GiB', ' TiB'))
