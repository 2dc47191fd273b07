"""Checkpoints: the last k and the best, checked when read, never half-written.

Each is a folder of separate Orbax items: `params`, `opt_state`, `ema`, `gradients` (of the gradient engine), `progress`
(step, logging window), `data` (position and fingerprints of the data) and `meta` (stage, best step, layout, a checksum
per array). Orbax writes into a
temporary folder and renames it, so a killed run leaves a whole checkpoint or none. It does not notice damaged bytes in
array data (tensorstore has no checksum there), so every array is summed on the device when saved and when restored.

Of several hosts each writes and reads the parts that its devices hold, on a disk that all share. What one of them
cannot read is damaged for all.
"""
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtjax import tree
from mtjax.parallel import hosts
from mtjax.training.state import TrainState

log = logging.getLogger('mtjax')
_fingerprint = jax.jit(tree.fingerprint)


class Checkpoints:
  """The checkpoints of a run.

  Args:
    directory: their folder; made when missing.
    keep: how many of the last ones stay; the best one stays besides.
  """

  def __init__(self, directory: str | pathlib.Path, keep: int = 2):
    self.directory = pathlib.Path(directory).absolute()
    self.best: dict[str, float] | None = None  # {'step', 'value'}
    if hosts.count() > 1:
      hosts.on_first(lambda: self.directory.mkdir(parents=True, exist_ok=True), 'the folder of checkpoints')
    options = ocp.CheckpointManagerOptions(preservation_policy=_LastAndBest(self, keep), cleanup_tmp_directories=True,
                                           **_between_hosts())
    self._manager = ocp.CheckpointManager(self.directory, options=options)

  @property
  def steps(self) -> list[int]:
    """Steps of the checkpoints that are there, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, *, data: dict[str, Any], meta: dict[str, Any]) -> None:
    """Saves in the background; the state may be donated as soon as this returns.

    Args:
      state: what to save, at its own step.
      data, meta: JSON.
    """
    step = int(state.step)
    if hosts.on_first(lambda: step in self._manager.all_steps(), 'the checkpoints that are there'):
      return
    items = _items(state)
    meta = {**meta, 'best': self.best, 'layout': _layout(state), 'checksums': _checksums(items)}
    arrays = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    self._manager.save(step, args=ocp.args.Composite(
      **arrays, data=ocp.args.JsonSave(data), meta=ocp.args.JsonSave(meta)))

  def meta(self, step: int) -> dict[str, Any]:
    """The `meta` item of a checkpoint."""
    return json.loads((self.directory / str(step) / 'meta' / 'metadata').read_text())

  def restore(self, step: int, abstract: Callable[[dict], TrainState]) -> tuple[TrainState, dict, dict]:
    """One checkpoint -> (state, data, meta).

    Args:
      step: which.
      abstract: meta -> the state as ShapeDtypeStructs with shardings; the topology may differ from the one that saved.

    Raises:
      Damaged: an array or file is missing, torn or altered.
      ValueError: the checkpoint is whole, but of another model.
    """
    meta, *expected = _on_all(lambda: self._described(step), 'its meta data cannot be read ({})')
    target = abstract(meta)
    _check_layout(expected[0], _layout(target), step)
    items = _items(target)
    arrays, data = _on_all(lambda: self._read(step, items), '{}')
    found = _checksums(arrays)
    wrong = [path for path in found if found[path] != expected[1].get(path)]
    if wrong:
      raise Damaged(f'the checksum of {wrong[0]!r} does not match')
    return _replace_items(target, arrays), data, meta

  def restore_latest(self, abstract: Callable[[dict], TrainState]) -> tuple[TrainState, dict, dict] | None:
    """The newest good checkpoint, or None where there is none at all. Damaged ones are put aside, and said so.

    Raises ValueError when there are checkpoints, but all are damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(hosts.on_first(lambda: self.steps, 'the checkpoints that are there')):
      try:
        result = self.restore(step, abstract)
      except Damaged as error:
        damaged[step] = str(error)
        continue
      for bad, reason in damaged.items():
        log.warning('The checkpoint of step %d is damaged: %s. Falling back to step %d.', bad, reason, step)
        self._put_aside(bad)
      self.best = result[2]['best']
      return result
    if damaged:
      raise ValueError(
        f'All checkpoints in {self.directory} are damaged: '
        + '; '.join(f'step {step}: {reason}' for step, reason in damaged.items())
        + '. To start afresh, use another workdir or delete this one.')
    return None

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    self._manager.wait_until_finished()

  def _described(self, step: int) -> tuple[dict[str, Any], dict[str, str], dict[str, int]]:
    """(meta, layout, checksums)."""
    meta = self.meta(step)
    return meta, meta['layout'], meta['checksums']

  def _read(self, step: int, items: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, data), read item by item: the manager's own way has the hosts wait for one that has failed."""
    folder = self.directory / str(step)
    arrays = {name: ocp.StandardCheckpointHandler().restore(folder / name, args=ocp.args.StandardRestore(item))
              for name, item in items.items()}
    return arrays, json.loads((folder / 'data' / 'metadata').read_text())

  def _put_aside(self, step: int) -> None:
    def move() -> None:
      aside = self.directory.with_name('checkpoints.damaged')
      aside.mkdir(exist_ok=True)
      count = sum(1 for path in aside.iterdir() if path.name.split('.')[0] == str(step))
      (self.directory / str(step)).rename(aside / (f'{step}.{count}' if count else str(step)))

    hosts.on_first(move, 'a damaged checkpoint')
    self._manager.reload()


class Damaged(ValueError):
  """A checkpoint that cannot be trusted; the text says why."""


class _LastAndBest:
  """Orbax preservation policy: the last `keep` and the best one stay."""

  def __init__(self, checkpoints: Checkpoints, keep: int):
    self._checkpoints, self._keep = checkpoints, keep

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = set(sorted(steps)[-self._keep :])
    if self._checkpoints.best:
      kept.add(self._checkpoints.best['step'])
    return [step in kept for step in steps]


def _between_hosts() -> dict[str, Any]:
  """Options of the manager: hosts wait for each other by messages, since collectives of a thread would get among those
  of the steps."""
  if hosts.count() == 1:
    return {}
  options = ocp.options.MultiprocessingOptions(active_processes=set(range(hosts.count())))
  return {'multiprocessing_options': options, 'create': False}


def _on_all(read: Callable[[], Any], sentence: str) -> Any:
  """`read()`; where it fails on one host, all raise Damaged with the error put into the sentence."""
  result, cause, text = None, None, ''
  try:
    result = read()
  except Exception as error:
    cause, text = error, sentence.format(_first_line(error))
  texts = [text for text in hosts.gather(text, 'reading a checkpoint') if text]
  if texts:
    raise Damaged(texts[0]) from cause
  return result


def _items(state: TrainState) -> dict[str, Any]:
  """The array items; one without any array (plain SGD has no state) is left out, since Orbax refuses it."""
  items = {
    'params': state.params,
    'opt_state': state.opt_state,
    'ema': state.ema,
    'gradients': state.gradients,
    'progress': {'step': state.step, 'window': state.window, 'first_bad': state.first_bad},
  }
  return {name: item for name, item in items.items() if jax.tree.leaves(item)}


def _replace_items(state: TrainState, items: dict[str, Any]) -> TrainState:
  items = dict(items)
  return state.replace(**items.pop('progress'), **items)


def _checksums(items: dict[str, Any]) -> dict[str, int]:
  return dict(zip(tree.flatten(items), np.asarray(_fingerprint(items)).tolist()))


def _layout(state: TrainState) -> dict[str, str]:
  return {path: f'{x.dtype}[{",".join(map(str, x.shape))}]' for path, x in tree.flatten(_items(state)).items()}


def _check_layout(saved: dict[str, str], built: dict[str, str], step: int) -> None:
  if saved == built:
    return
  differs = [f'{path}: {saved.get(path, "absent")} saved, {built.get(path, "absent")} built'
             for path in sorted({*saved, *built}) if saved.get(path) != built.get(path)]
  raise ValueError(f'The checkpoint of step {step} is of another model; {len(differs)} arrays differ: '
                   + '; '.join(differs[:5]) + ('; …' if len(differs) > 5 else '.'))


def _first_line(error: Exception) -> str:
  text = str(error).strip()
  return text.splitlines()[0][:300] if text else type(error).__name__
