"""Speed: what is compiled is compiled once, rates are arithmetic, tokens are those that are not padding."""
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mtjax import experiment
from mtjax.parallel import chips, make_mesh
from mtjax.training import throughput
from mtjax.training.flops import Flops
from mtjax.training.program import Program, compile_ahead
from mtjax.training.writers import read_metrics

TEXT = dict(name='toy:Toy', batch_size=32, inputs='tokens', format={'tokens': dict(name='bytes', column='text', length=16)})
TASKS = {'odd': dict(label='odd', head=dict(name='classification', classes=2))}


class Compilations(logging.Handler):
  """Which programs JAX compiles while it lasts."""

  def __init__(self):
    super().__init__()
    self.names = []

  def emit(self, record):
    text = record.getMessage()
    if text.startswith('Finished XLA compilation of '):
      self.names.append(text.split()[4])

  def __enter__(self):
    jax.config.update('jax_log_compiles', True)
    self._logger = logging.getLogger('jax')
    self._before, self._logger.propagate = self._logger.propagate, False
    self._logger.addHandler(self)
    return self

  def __exit__(self, *_):
    jax.config.update('jax_log_compiles', False)
    self._logger.removeHandler(self)
    self._logger.propagate = self._before


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(run of a language model on two devices, its workdir, what was compiled). Its head has no parameters."""
  folder = tmp_path_factory.mktemp('speed')
  encoder = dict(name='gpt2', vocab_size=259, width=16, depth=1, heads=2, max_length=16, pad_id=0)
  tasks = {'next': dict(label='tokens', head=dict(name='language_model', vocab_size=259, tie=True))}
  run = experiment.build(toy.config(data=TEXT, tasks=tasks, encoder=encoder, mesh=dict(data=2)), folder)
  with Compilations() as compiled:
    run.train(run.init())
  return run, folder, compiled.names


def test_the_step_is_compiled_once(finished):
  assert finished[2].count('jit(train_step)') == 1


def test_lines_and_run_json_carry_the_numbers(finished):
  run, folder, _ = finished
  lines = [line for line in read_metrics(folder) if line['split'] == 'train']
  for line in lines:
    assert line['time/step_ms'] == pytest.approx(1e3 / line['time/steps_per_second'])
    assert line['time/examples_per_second'] == pytest.approx(32 * line['time/steps_per_second'])
    assert line['memory/peak_bytes'] == lines[0]['memory/peak_bytes'] > 0
    assert 'time/mfu' not in line  # nobody publishes the peak of a CPU
  assert lines[0]['time/compile_seconds'] > 0 and not any('time/compile_seconds' in line for line in lines[1:])
  speed = run._recorded()['performance']['train']
  assert speed['flops_per_step'] == lines[0]['time/flops_per_step']
  # Two devices make the products of one batch; the compiler counts elementwise work, too, which weighs at this width.
  assert speed['flops_per_step'] < speed['compiled_flops_per_step'] < 3 * speed['flops_per_step']
  assert speed['peak_memory_of'] == 'compiled step' and speed['peak_flops_per_device'] is None
  texts = np.array([len(f'{d} is {"odd" if d % 2 else "even"}') for d in range(10)])
  assert speed['tokens_counted'] == 'tokens without padding'
  assert 32 * texts.min() <= speed['tokens_per_step'] <= 32 * (texts.max() + 2)


def test_a_run_that_goes_on_keeps_what_was_measured(finished):
  _, folder, _ = finished
  again = experiment.load_run(folder)
  before = again._recorded()['performance']
  again.train(again.init())
  assert again._recorded()['performance'] == before


def test_rates_by_hand():
  streams = experiment.build(toy.config()).streams  # 64 rows a step
  meter = throughput.Meter(make_mesh({'data': 4}))
  assert meter.window(3, 1.0) == {} and meter.summary() == {}
  meter.enter('train', streams, Program(2.5, Flops(narrow=6_000, wide=2_000), 9e3, 1 << 20, devices=4))
  meter._peak = 1e5  # as of a chip in the table
  first = meter.window(10, 0.5)  # 50 ms a step; 8,000 / (0.05 x 4 x 1e5) of the peak
  assert first == {'time/compile_seconds': 2.5, 'time/flops_per_step': 8_000, 'time/step_ms': 50.0,
                   'time/steps_per_second': 20.0, 'time/examples_per_second': 1280.0, 'time/mfu': pytest.approx(0.4),
                   'memory/peak_bytes': 1 << 20}
  meter.window(10, 0.1), meter.window(10, 0.3)
  assert meter.summary()['train']['step_ms'] == pytest.approx(30.0)  # the median of 50, 10, 30
  assert 'time/step_ms' not in meter.window(0, 0.1)


@pytest.mark.parametrize('narrow, peak', [(9, 'flops_16'), (1, 'flops_32')])
def test_the_peak_is_that_of_most_products(narrow, peak, monkeypatch):
  monkeypatch.setattr(chips, 'of_kind', lambda kind: chips.chip('h100'))
  meter = throughput.Meter(make_mesh({'data': 1}))
  meter.enter('train', {}, Program(0.0, Flops(narrow, 5), None, None, 1))
  assert meter.summary()['train']['peak_flops_per_device'] == getattr(chips.chip('h100'), peak)


def test_the_device_is_asked_for_its_peak_where_it_keeps_one():
  meter = throughput.Meter(make_mesh({'data': 1}))
  device = type('Device', (), {'memory_stats': lambda self: {'peak_bytes_in_use': 77, 'bytes_in_use': 5}})
  meter._devices = [device(), meter._devices[0]]
  assert meter.memory() == (77, 'device')


def test_positions_count_where_nothing_says_what_padding_is():
  run = experiment.build(toy.config(data=TEXT, tasks=TASKS, encoder=dict(
    name='gpt2', vocab_size=300, width=16, depth=1, heads=2, max_length=16)))
  assert throughput.tokens_a_step(run.streams, run.objective.encoder) == (32 * 16, 'positions')
  assert throughput.tokens_a_step(run.streams, run.objective.encoder.clone(pad_id=0))[0] < 32 * 16
  images = experiment.build(toy.config())
  assert throughput.tokens_a_step(images.streams, images.objective.encoder) == (None, '')


class Rows(dict):
  """A table of arrays in memory."""

  def __len__(self):
    return len(self['tokens'])

  def rows(self, index, names):
    return {name: self[name][index] for name in names}


def stream_of(shares, *tables):
  schema = {name: (column.shape[1:], column.dtype) for name, column in tables[0].items()}
  return SimpleNamespace(batch_size=10, input_columns=tuple(schema), schema=schema, sampler=SimpleNamespace(slots=np.array(shares)),
                         sources={str(i): {'train': table} for i, table in enumerate(tables)})


def test_masks_targets_and_shares_of_a_mixture_by_hand():
  tokens = np.array([[5, 6, 7, 0], [5, 0, 0, 0]])
  encoder = SimpleNamespace(vocab_size=9, pad_id=0)
  masked = stream_of([1], Rows(tokens=tokens, mask=np.array([[1, 1, 0, 0], [1, 0, 0, 0]])))
  assert throughput.tokens_a_step({'a': masked}, encoder) == (10 * 1.5, 'tokens without padding')
  pair = stream_of([1], Rows(tokens=tokens, targets=np.array([[1, -100], [1, 2]])))  # what is predicted counts as well
  assert throughput.tokens_a_step({'a': pair}, encoder)[0] == 10 * (2 + 1.5)
  mixture = stream_of([3, 1], Rows(tokens=tokens), Rows(tokens=np.ones((5, 4), int)))
  assert throughput.tokens_a_step({'a': mixture}, encoder)[0] == 10 * (0.75 * 2 + 0.25 * 4)
  dense = stream_of([1], Rows(tokens=np.ones((2, 4, 3), int)))  # rows of more than one axis are no sequences of tokens
  assert throughput.tokens_a_step({'a': dense}, encoder) == (None, '')


def test_what_was_compiled_ahead_is_called_without_compiling():
  double = jax.jit(lambda x: 2 * x @ x)
  x = jnp.ones((3, 3))
  with Compilations() as compiled:
    program = compile_ahead(double, x)
    double(x)
  assert len(compiled.names) == 1
  assert program.flops.total == 54 and program.memory >= 72 and program.compile_seconds > 0
  assert program.share(3).flops.total == 18 and program.share(3).memory == program.memory
