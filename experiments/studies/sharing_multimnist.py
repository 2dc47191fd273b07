"""Does one encoder for both digits beat one for each? MultiMNIST, the quickstart's model.

python -m mtjax.study --study=experiments/studies/sharing_multimnist.py --workdir=runs/sharing_multimnist

The arm `joint, wide` has as many parameters as the two single-task models together. Found: capacity is what the claim
fails for. With half of the parameters the joint model is 0.27 % worse than the two, with as many it is 0.21 % better.
"""
from experiments.multimnist import joint
from mtjax.study import Study, single_task


def get_study() -> Study:
  """See the top of the file."""
  return Study(
    title='One encoder for two digits',
    claim='On MultiMNIST an encoder that both digits share does better than an encoder for each (Δm > 0).',
    config=joint.get_config(), seeds=10, metric='delta_m', verdict='joint > single-task',
    arms={'joint': {}, 'joint, wide': {'encoder.channels': (24, 44), 'encoder.width': 92},
          'single-task': single_task()})
