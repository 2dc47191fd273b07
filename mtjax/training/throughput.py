"""How fast a run goes: steps, examples and tokens a second, model FLOPs utilisation, peak memory.

    step time        wall-clock between two log steps / the steps between them; evaluations and checkpoints left out
    tokens           positions of the token columns that are not padding, expected in a batch: see `tokens_a_step`
    MFU              model FLOPs of a step / (step time x devices x peak of a device)
    peak memory      the most in use at once on any device of this host since the process began (GPU, TPU); where the
                     backend keeps no account (CPU), what the compiled step needs

Model FLOPs: `mtjax.training.flops`; Chowdhery et al., "PaLM", 2022, appendix B, https://arxiv.org/abs/2204.02311. The
peak is that of 16-bit products where most of the products are such, else that of float32 ones (`mtjax.parallel.chips`).
"""
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mtjax.data.streams import Stream
from mtjax.parallel import chips
from mtjax.training.program import Program

NOT_TOKENS = ('mask', 'positions', 'token_types')
SAMPLE = 256  # rows of a source that are looked at to know its padding


class Meter:
  """Turns the time between log steps into rates, stage by stage. Reads nothing from the device.

  Args:
    mesh: where the run is.
    encoder: whose padding id counts; None = there are no tokens.
  """

  def __init__(self, mesh: Mesh, encoder: Any = None):
    self._devices, self._encoder = list(mesh.local_devices), encoder
    self._stages: dict[str, dict[str, Any]] = {}
    self._current: dict[str, Any] = {}
    self._windows: list[float] = []
    self._program: Program | None = None
    self._examples, self._tokens, self._peak, self._news = 0, None, None, False

  def enter(self, stage: str, streams: Mapping[str, Stream], program: Program) -> None:
    """A stage begins with this compiled step."""
    self._program, self._windows, self._news = program, [], True
    self._examples = sum(stream.batch_size for stream in streams.values())
    self._tokens, counted = tokens_a_step(streams, self._encoder)
    chip = chips.of_kind(self._devices[0].device_kind)
    narrow = program.flops.narrow > program.flops.wide
    self._peak = None if chip is None else chip.flops_16 if narrow else chip.flops_32
    self._stages[stage] = self._current = {
      'compile_seconds': round(program.compile_seconds, 3), 'examples_per_step': self._examples,
      'flops_per_step': program.flops.total, 'compiled_flops_per_step': program.compiled_flops,
      'peak_flops_per_device': self._peak}
    if self._tokens:
      self._current |= {'tokens_per_step': self._tokens, 'tokens_counted': counted}

  def window(self, steps: int, seconds: float) -> dict[str, float]:
    """The numbers of a log line, after `steps` updates that took `seconds`; without rates where there were none."""
    values: dict[str, float] = {}
    if self._program is None:
      return values
    if self._news:  # what stays the same is said once
      values |= {'time/compile_seconds': self._program.compile_seconds,
                 'time/flops_per_step': self._program.flops.total}
      self._news = False
    if steps > 0:
      values |= {f'time/{name}': value for name, value in self._rates(seconds / steps).items()}
      self._windows.append(seconds / steps)
    memory, source = self.memory()
    if memory is not None:
      values['memory/peak_bytes'] = memory
      self._current |= {'peak_memory_bytes': memory, 'peak_memory_of': source}
    if self._windows:
      self._current |= self._rates(statistics.median(self._windows))
    return values

  def memory(self) -> tuple[int | None, str]:
    """(bytes of the fullest device of this host, whose account it is)."""
    accounts = [device.memory_stats() or {} for device in self._devices]
    peaks = [account['peak_bytes_in_use'] for account in accounts if 'peak_bytes_in_use' in account]
    if peaks:
      return max(peaks), 'device'
    return (None if self._program is None else self._program.memory), 'compiled step'

  def summary(self) -> dict[str, dict[str, Any]]:
    """{stage: facts} for run.json: of rates, those of the median window."""
    return {stage: dict(facts) for stage, facts in self._stages.items()}

  def _rates(self, seconds: float) -> dict[str, float]:
    found = {'step_ms': 1e3 * seconds, 'steps_per_second': 1 / seconds, 'examples_per_second': self._examples / seconds}
    if self._tokens:
      found['tokens_per_second'] = self._tokens / seconds
    if self._peak:
      found['mfu'] = self._program.flops.total / (seconds * self._program.devices * self._peak)
    return found


def tokens_a_step(streams: Mapping[str, Stream], encoder: Any) -> tuple[float | None, str]:
  """(tokens expected in a batch of all streams, which of them count); (None, '') where inputs are no tokens.

  Token columns are the integer input columns [B, L] of an encoder that has a `vocab_size`. Those count that the column
  `mask` marks, else those that differ from the encoder's `pad_id` (0 where it has no such field) and are not negative,
  on average over up to 256 rows of each source; where `pad_id` is None, all positions do.

  Args:
    streams: {name: stream}.
    encoder: the module.
  """
  if getattr(encoder, 'vocab_size', None) is None:
    return None, ''
  total, ways = 0.0, set()
  for stream in streams.values():
    columns = [name for name in stream.input_columns if name not in NOT_TOKENS and _is_tokens(stream, name)]
    share = stream.sampler.slots / stream.sampler.slots.sum()
    for name in columns:
      means = [_mean_tokens(tables['train'], name, stream.input_columns, getattr(encoder, 'pad_id', 0))
               for tables in stream.sources.values()]
      ways |= {way for _, way in means}
      total += stream.batch_size * float(share @ [mean for mean, _ in means])
  return (total, ' and '.join(sorted(ways))) if total else (None, '')


def _is_tokens(stream: Stream, column: str) -> bool:
  shape, dtype = stream.schema[column]
  return len(shape) == 1 and np.issubdtype(dtype, np.integer)


def _mean_tokens(table: Any, column: str, columns: tuple[str, ...], pad_id: int | None) -> tuple[float, str]:
  """(mean tokens a row, which count)."""
  rows = np.unique(np.linspace(0, len(table) - 1, min(SAMPLE, len(table))).astype(int))
  masked = 'mask' in columns and column == 'tokens'
  if not masked and pad_id is None:
    return float(table.rows(rows[:1], [column])[column].shape[1]), 'positions'
  values = table.rows(rows, ['mask' if masked else column])['mask' if masked else column]
  counted = values > 0 if masked else (values != pad_id) & (values >= 0)
  return float(counted.sum(1).mean()), 'tokens without padding'
