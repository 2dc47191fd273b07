"""Multi-Fashion: two pieces of clothing on one canvas (fetched)."""
from mtjax.data.sources import base, fashion_mnist, multimnist

COUNTS = {'train': 60_000, 'validation': 5_000, 'test': 10_000}


class MultiFashion(base.Source):
  """Fashion-MNIST composed as MultiMNIST is: image uint8 [36, 36, 1], labels `left` and `right`.

  60,000 / 5,000 / 10,000 pictures, composed of 55,000 / 5,000 / 10,000: validation is carved out of the training
  file, test comes of the test file, and no picture of clothing (`left_id`, `right_id`) is in two splits.
  """
  name = 'mt_multifashion'
  INPUTS = 'image'
  CITATION = 'Lin, Zhen, Li, Zhang & Kwong, "Pareto Multi-Task Learning", NeurIPS 2019, https://arxiv.org/abs/1912.12854.'
  LICENCE = 'MIT'

  def columns(self):
    return multimnist.columns()

  def rows(self):
    images, labels, splits = fashion_mnist.pictures()
    return multimnist.compose(images, labels, splits, COUNTS)
