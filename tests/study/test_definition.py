"""What a study says, and which runs it means."""
import pytest
import toy

from mtjax import experiment
from mtjax.study import Parts, Search, Study, better, single_task
from mtjax.study.definition import group_key, only_task, override


def study(**fields):
  return Study(**{'claim': 'Sharing helps.', 'config': toy.config(), 'arms': {'joint': {}, 'single': single_task()}, **fields})


def test_overrides_set_fields_and_replace_components():
  config = {'optimizer': {'name': 'adam', 'lr': 0.1}, 'encoder': {'name': 'mlp', 'widths': [8]}, 'stages': [{'steps': 3}]}
  found = override(config, {'optimizer.lr': 0.2, 'encoder': {'name': 'lenet'}, 'stages.0.steps': 5, 'aggregator.name': 'upgrad'})
  assert found == {'optimizer': {'name': 'adam', 'lr': 0.2}, 'encoder': {'name': 'lenet'}, 'stages': [{'steps': 5}],
                   'aggregator': {'name': 'upgrad'}}
  assert config['optimizer']['lr'] == 0.1
  with pytest.raises(ValueError, match="'optimizer.lr.x' leads into 'lr'"):
    override(config, {'optimizer.lr.x': 1})


def test_arms_share_seeds_and_data_order():
  cells = {arm: list(study(seeds=[3, 5]).cells(arm, [3, 5])) for arm in ('joint', 'single')}
  assert [(cell.part, cell.seed) for cell in cells['joint']] == [('', 3), ('', 5)]
  assert [(cell.part, cell.seed) for cell in cells['single']] == [('digit', 3), ('ink', 3), ('digit', 5), ('ink', 5)]
  for cell in [*cells['joint'], *cells['single']]:
    assert cell.config['seed'] == cell.config['data']['seed'] == cell.seed
    assert cell.config['mesh'] == {'data': 1} and cell.config['keep_checkpoints'] == 1
  assert len({group_key(cell.config) for cell in cells['joint']}) == 1
  assert len({group_key(cell.config) for cell in cells['single']}) == 2


def test_a_single_task_starts_where_the_joint_run_does():
  joint = next(study().cells('joint', [4]))
  single = next(study().cells('single', [4]))
  one, other = (experiment.build(cell.config) for cell in (joint, single))
  a, b = one.init().params, other.init().params
  assert list(b['heads']) == ['digit'] and (a['encoder']['fc1']['kernel'] == b['encoder']['fc1']['kernel']).all()
  assert (one.batch(2)['toy_Toy' if 'toy_Toy' in one.streams else next(iter(one.streams))]['image'] ==
          other.batch(2)[next(iter(other.streams))]['image']).all()


def test_only_task_of_streams_keeps_the_rows_a_step():
  config = toy.config(data=dict(streams={'a': dict(name='toy:Toy'), 'b': dict(name='toy:Long', batch_size=16)}, batch_size=24),
                      tasks={'a': dict(label='digit', head=dict(name='classification', classes=10)),
                             'b': dict(label='odd', head=dict(name='classification', classes=2), weight=0.5)},
                      aggregator=dict(name='upgrad'), gradients=dict(every_k=2), best=dict(metric='eval/a/accuracy', mode='max'))
  found = only_task(config, 'b')
  assert list(found['tasks']) == ['b'] and list(found['data']['streams']) == ['b']
  assert found['data']['streams']['b']['batch_size'] == 16 and found['tasks']['b']['weight'] == 0.5
  assert found['aggregator'] == {} and found['gradients'] == {} and found['best'] == {'metric': 'eval/loss', 'mode': 'min'}
  assert only_task(config, 'a')['data']['streams']['a']['batch_size'] == 24
  assert only_task(config, 'a')['best']['metric'] == 'eval/a/accuracy'
  experiment.build({**found, 'mesh': {'data': 1}})


def test_only_task_of_a_mixture_keeps_its_share():
  mixture = {'x': dict(name='toy:Toy', weight=3.0), 'y': dict(name='toy:Long', weight=1.0)}
  config = toy.config(data=dict(mixture=mixture, batch_size=32, block_size=8),
                      tasks={name: dict(label='digit', head=dict(name='classification', classes=10), rows=name) for name in mixture})
  found = only_task(config, 'x')
  assert found['data']['batch_size'] == 24 and list(found['data']['mixture']) == ['x']
  experiment.build(found)
  with pytest.raises(ValueError, match='stage with data of its own'):
    only_task({**found, 'stages': [{'steps': 1, 'data': {}}]}, 'x')


def test_an_arm_may_be_a_function_of_the_seed():
  cells = list(study(arms={'a': {}, 'b': lambda seed: {'seed': seed + 100}}).cells('b', [0, 1]))
  assert [(cell.seed, cell.config['seed'], cell.config['data']['seed']) for cell in cells] == [(0, 100, 100), (1, 101, 101)]


def test_smoke_makes_a_few_steps():
  small = study(seeds=9, smoke={'data.batch_size': 8}).for_smoke()
  assert small.seed_list() == [0, 1]
  cell = next(small.cells('joint', [0], smoke=True))
  assert cell.config['steps'] == cell.config['eval_every'] == 4 and cell.config['data']['batch_size'] == 8


def test_parts_are_one_arm():
  arms = {'a': Parts({'x': {'steps': 2}, 'y': {'steps': 3}}), 'b': {}}
  assert [(cell.part, cell.config['steps']) for cell in study(arms=arms).cells('a', [0])] == [('x', 2), ('y', 3)]
  many = study(arms={'a': Parts({str(i): {} for i in range(5)}), 'b': {}}).for_smoke()
  assert list(many.arms['a'].parts) == ['0', '1']


@pytest.mark.parametrize('fields, words', [
  (dict(claim=' '), "'claim' must say in words"),
  (dict(arms={}), "'arms' must be"),
  (dict(arms={'a;b': {}}), "without ';'"),
  (dict(arms={'a': 3}), "Arm 'a' must be overrides"),
  (dict(seeds=0), "'seeds' must be"),
  (dict(seeds=[1, 1]), "'seeds' must be"),
  (dict(selection='test'), "what is chosen is chosen on validation"),
  (dict(split='train'), "'split' must be"),
  (dict(paper='mtlorra'), "Did you mean 'mtlora'"),
  (dict(baseline='sinlge'), "Did you mean 'single'"),
  (dict(verdict='joint > sinlge'), "Did you mean 'single'"),
  (dict(verdict=better('joint', 'x')), "'verdict' names the arm 'x'"),
])
def test_bad_studies_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    study(**fields)


def test_a_config_may_be_a_file(tmp_path):
  (tmp_path / 'mine.py').write_text("import toy\ndef get_config(arg='3'):\n  return toy.config(steps=int(arg))\n")
  steps = lambda path: next(study(config=str(path)).cells('joint', [0])).config['steps']
  assert steps(tmp_path / 'mine.py') == 3 and steps(f'{tmp_path}/mine.py:7') == 7
  with pytest.raises(FileNotFoundError, match='There is no file'):
    steps(tmp_path / 'none.py')
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(ValueError, match='without get_config'):
    steps(tmp_path / 'empty.py')


def test_baselines():
  assert study().baselines() == {'joint': 'single'}
  assert study(arms={'a': {}, 'b': {}}, baseline='b').baselines() == {'a': 'b'}
  assert study(arms={'a': {}, 'b': {}}).baselines() == {}
  assert study(search=Search({'optimizer.lr': [1e-3]}, num_arms=1)).baselines() == {'joint': 'single'}
