"""What each of the processes of `test_hosts.py` does: python hosts_program.py FOLDER."""
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import toy

from mtjax import experiment
from mtjax.parallel import batch_sharding, distributed, host_rows, hosts, make_mesh, put_batch
from mtjax.training.checkpoints import Checkpoints

STEPS = 8


def config(mesh, **fields):
  """Batches of 24 rows: 300 of validation leave a last one that is half padding."""
  data = {'name': 'toy:Toy', 'batch_size': 24, 'seed': 0}
  return toy.config(data=data, steps=STEPS, log_every=1, eval_every=8, checkpoint_every=4, mesh=mesh,
                    **fields)


def trained(folder, mesh):
  """(the run, its state at the end) of what `folder` leaves to do."""
  run = experiment.build(config(mesh), folder)
  state, _ = run.train(run.init())
  return run, state


def raised(function):
  """Type and text of what `function` raises."""
  try:
    function()
  except Exception as error:
    return [type(error).__name__, str(error)]
  return None


def messages(folder):
  """What hosts tell each other."""
  number, shared = jax.process_index(), folder / 'prepared'

  def prepare():
    with hosts.first_goes_first('a folder'):
      if not shared.exists():
        shared.mkdir()
        return 'made'
      return 'found'

  def fail_on_first():
    with hosts.first_goes_first('a folder'):
      raise OSError('the disk is full')

  if number == 0:
    (folder / 'host0').touch()
  return {'seen': raised(lambda: hosts.see(folder / 'host0')),
          'unseen': raised(lambda: hosts.see(folder / f'host{number}', 0)),  # as if each had a disk of its own
          'gather': hosts.gather(number, 'numbers'), 'on_first': hosts.on_first(lambda: number + 7, 'a sum'),
          'prepared': prepare(), 'fails': raised(fail_on_first),
          'fails_too': raised(lambda: hosts.on_first(lambda: int('x'), 'a number'))}


def rows(**axes):
  """{device: the rows that it gets} of a batch 0 … 15, of which each host gives what `host_rows` says."""
  sharding = batch_sharding(make_mesh(axes))
  mine = np.arange(16)[host_rows(16, sharding)]
  return {shard.device.id: np.asarray(shard.data).tolist()
          for shard in put_batch({'x': mine}, sharding)['x'].addressable_shards}


def damaged_for_one(run):
  """Host 1 cannot read the newest checkpoint: the step that each host goes back to."""
  read = Checkpoints._read
  if jax.process_index() == 1:
    Checkpoints._read = lambda self, step, items: 1 / 0 if step == STEPS else read(self, step, items)
  try:
    return int(run.init().step)
  finally:
    Checkpoints._read = read


def main(folder):
  """Everything, in one start: starting is what takes time."""
  distributed.start()
  found = {'messages': messages(folder), 'rows': {name: rows(**axes) for name, axes in {
    'data=8': dict(data=8), 'data=2, tensor=4': dict(data=2, tensor=4), 'tensor=8': dict(data=1, tensor=8)}.items()}}
  trained(folder / 'data', dict(data=8))
  run, state = trained(folder / 'fsdp', dict(data=-1, fsdp=2))
  found['test'] = run.evaluate(state, 'test')
  images = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8, 1)
  found['predictions'] = run.predict(state, images)['digit']['probabilities'].tolist()
  found['went_on'] = int(trained(folder / 'began_alone', dict(data=-1, fsdp=2))[1].step)
  found['other_config'] = raised(lambda: experiment.build(config(dict(data=8), seed=1), folder / 'fsdp'))
  if hosts.is_first():
    shutil.copytree(folder / 'fsdp', folder / 'damaged')
  found['differ'] = raised(lambda: experiment.build(config(dict(data=8), seed=jax.process_index()), folder / 'fsdp'))
  found['damaged'] = damaged_for_one(experiment.build(config(dict(data=-1, fsdp=2)), folder / 'damaged'))
  (folder / f'found{jax.process_index()}.json').write_text(json.dumps(found))
  distributed.finish()


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
