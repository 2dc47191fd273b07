r"""Multi-Fashion: two overlapping garments, one image, two labels; the MultiMNIST recipe on harder pictures.

python -m mtjax.data.fetch fashion_mnist
python -m mtjax.train --config=experiments/multimnist/multifashion.py --workdir=runs/multifashion
  variants: multifashion.py:smoke   multifashion.py:seed=1
Expected: EXPECTED_MULTIFASHION
"""
from experiments.multimnist import joint


def get_config(arg=None):
  """The config of `joint.py` on other data."""
  config = joint.get_config(arg)
  config.data.name = 'multifashion'
  return config
