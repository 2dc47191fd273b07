r"""Multi-Fashion: two overlapping garments, one image, two labels; the MultiMNIST recipe on harder pictures.

python -m mtjax.data.fetch fashion_mnist
python -m mtjax.train --config=experiments/multimnist/multifashion.py --workdir=runs/multifashion
  variants: multifashion.py:smoke   multifashion.py:seed=1
Expected: test accuracy left 83.4 ± 0.4 %, right 80.3 ± 0.1 % (mean ± sd over seeds 0, 1, 2), about 45 s a run on two
CPU cores; experiments/results/multifashion.json.
"""
from experiments.multimnist import joint


def get_config(arg=None):
  """The config of `joint.py` on other data."""
  config = joint.get_config(arg)
  config.data.name = 'multifashion'
  return config
