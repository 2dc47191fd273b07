"""Metrics of text in a run: what the model writes, by `generate` alone; limits, batches, heads, and what is refused."""
import functools

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment, metrics
from mtjax.data.formats import ByteText
from mtjax.decoding import generate
from mtjax.parallel import replicated

HOW = dict(max_new_tokens=6, stop_tokens=2, pad_id=0, suppress_tokens=tuple(range(131, 259)))     # ASCII alone
WRITES = dict(tokenizer='bytes', **HOW)
TARGETS = dict(name='targets', template='{text}', path='bytes', length=12)
T5 = dict(name='t5', vocab_size=259, width=8, depth=1, heads=2, hidden=12, buckets=4)
GPT2 = dict(name='gpt2', vocab_size=259, width=8, depth=1, heads=2, hidden=12, max_length=24)


def pair(**generation):
  """An encoder-decoder that copies a text; 'odd' is another task on its encoder."""
  return toy.config(
    data=dict(name='toy:Toy', batch_size=64, inputs=('inputs', 'targets'), format={
      'inputs': dict(name='bytes', column='text', length=12), 'targets': TARGETS}),
    tasks={'copy': dict(label='targets', head=dict(name='language_model', vocab_size=259, tie=True), loss='position_xent',
                        metrics=('toy:fingerprint', dict(name='wer', by='odd', groups=('even', 'odd'))),
                        generation=dict(**WRITES, prefix=3, **generation))},
    encoder=T5)


def decoder(**generation):
  """A decoder that goes on from '3 is '; its head has weights of its own."""
  return toy.config(
    data=dict(name='toy:Toy', batch_size=64, inputs='tokens', format={
      'tokens': dict(name='bytes', column='text', length=12),
      'prompt': dict(name='targets', template='{digit} is', path='bytes', length=7),
      'answer': dict(name='targets', template='{text}', path='bytes', length=12)}),
    tasks={'next': dict(label='tokens', head=dict(name='language_model', vocab_size=259), metrics=('toy:fingerprint',),
                        generation=dict(WRITES, prompts='prompt', references='answer', **generation))},
    encoder=GPT2)


@functools.cache
def built(make, **generation):
  """(a run, a state with parameters so large that each row is written another text)."""
  run, rng = experiment.build(make(**generation)), np.random.default_rng(0)
  state = run.init()
  params = jax.tree.map(lambda x: rng.normal(scale=0.7, size=x.shape).astype(x.dtype), state.params)
  return run, state.replace(params=jax.device_put(params, replicated(run.mesh)))


def numbers(run, state, split, task):
  """(evaluated, of one batch of all rows: columns of the split)."""
  (batch,) = run.streams['Toy'].eval_batches(split, run.streams['Toy'].num_rows(split))
  found = run.evaluate(state, split)
  return {name.removeprefix(f'eval/{task}/'): value for name, value in found.items()}, batch


def texts(rows, lengths):
  return ByteText().decode(rows, np.arange(rows.shape[1]) < np.asarray(lengths)[:, None])


def fingerprint(said, label):
  metric = toy.fingerprint()
  return metric.compute(metric.update((), said, {'label': label}))['fingerprint']


def test_an_encoder_decoder_writes_from_its_inputs_and_the_prefix():
  run, state = built(pair)
  found, batch = numbers(run, state, 'validation', 'copy')
  begun = np.concatenate([np.full((300, 1), run.objective.encoder.start_id), batch['targets'][:, :3]], axis=1)
  made = generate(run.objective.encoder, state.params['encoder'], batch['inputs'], decoder_prompts=begun,
                  **HOW)
  said, label = texts(made.tokens, made.lengths), ByteText().decode(batch['targets'][:, 3:])
  assert label[0].endswith('odd') or label[0].endswith('even')
  view = {'label': label, 'odd': batch['odd'], 'mask': np.ones(300, bool)}
  assert len(set(said)) > 3                                 # texts of their own
  for metric in (toy.fingerprint(), metrics.wer(by='odd', groups=('even', 'odd'))):
    for name, value in metric.compute(metric.update(metric.init(), said, view)).items():
      assert found[name] == value, name                     # batches of 64, the last padded, or one of all rows
  assert found['n'] == 300


def test_two_devices_write_what_one_does():
  run, state = built(pair)
  config = pair()
  config.mesh = {'data': 2}
  two = experiment.build(config)
  state2 = state.replace(params=jax.device_put(jax.device_get(state.params), replicated(two.mesh)))
  task, stream = two.objective.tasks['copy'], two.streams['Toy']
  found = two._evaluator._texts(state2.params, task, stream, 'validation', two.mesh, 64)
  assert found['fingerprint'] == run.evaluate(state, 'validation')['eval/copy/fingerprint']


def test_a_limit_is_of_the_validation_split_alone():
  run, state = built(pair, limit=70)
  found, batch = numbers(run, state, 'validation', 'copy')
  writer, task = run._evaluator._texts, run.objective.tasks['copy']
  whole = jax.tree.map(lambda x: x[:128], dict(batch))
  said, view = writer.write(state.params, task, whole)
  assert found['fingerprint'] == fingerprint(said[:70], view['label'][:70])
  unlimited, _ = built(pair)
  assert run.evaluate(state, 'test') == unlimited.evaluate(state, 'test')


def test_a_decoder_goes_on_from_prompts_by_the_head_of_the_task():
  run, state = built(decoder)
  found, batch = numbers(run, state, 'validation', 'next')
  prompts = batch['prompt']
  assert ByteText().decode(prompts[:1]) == [f'{batch["prompt"][0, 1] - 3 - 48} is']
  params, task = state.params, run.objective.tasks['next']
  made = generate(run.objective.encoder, params['encoder'], np.maximum(prompts, 0), mask=prompts >= 0, **HOW,
                  head=task.head, head_params=params['heads']['next'])
  said = texts(made.tokens, made.lengths)
  assert len(set(said)) > 1 and found['fingerprint'] == fingerprint(said, ByteText().decode(batch['answer']))


def test_rows_without_a_label_are_not_compared():
  run, state = built(pair)
  (batch,) = run.streams['Toy'].eval_batches('validation', 300)
  batch = {name: x[:64].copy() for name, x in batch.items()}
  batch['targets_mask'][::2] = False
  batch['valid'][1] = False
  _, view = run._evaluator._texts.write(state.params, run.objective.tasks['copy'], batch)
  assert view['mask'].tolist() == [i % 2 == 1 and i != 1 for i in range(64)]


def test_the_report_shows_what_was_written():
  run, state = built(pair)
  shown = run.predictor.samples(state.params, 'validation', per_task=5)['copy']
  (batch,) = run.streams['Toy'].eval_batches('validation', 300)
  assert shown['kind'] == 'text' and len(shown['rows']) == 5
  assert [row['label'] for row in shown['rows']] == ByteText().decode(batch['targets'][:5, 3:])
  assert all(isinstance(row['prediction'], str) and row['input']['type'] == 'text' for row in shown['rows'])


def task(make, **fields):
  config = make()
  (name,) = config.tasks
  for field, value in fields.items():
    config.tasks[name][field] = value
  return config


@pytest.mark.parametrize('config, words', [
  (lambda: task(pair, metrics=(dict(name='wer', kind='softmax'),)), "'wer' is for heads of kind 'text', got 'softmax'"),
  (lambda: pair(top_k=3), "Unknown config key 'tasks.copy.generation.top_k'"),
  (lambda: task(decoder, generation=dict(WRITES)), "'tasks.next.generation.prompts' must name the column"),
  (lambda: task(decoder, generation=dict(WRITES, prompts='prompt', prefix=1)), 'allowed is one of the two'),
  (lambda: task(decoder, generation=dict(WRITES, prompts='promt')), "no label column 'promt'"),
  (lambda: task(decoder, generation=dict(max_new_tokens=3, tokenizer='none.json')), 'none.json does not exist'),
  (lambda: task(lambda: toy.config(tasks={'digit': dict(label='digit', head=dict(name='linear', classes=10))}),
                generation=dict(WRITES)), "'tasks.digit.generation': MLP can't generate"),
])
def test_what_does_not_fit_is_said_before_anything_is_compiled(config, words):
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    experiment.build(config())
  assert words in str(error.value)
