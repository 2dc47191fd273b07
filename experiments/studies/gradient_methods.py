"""Cost and quality in one table: every method of `mtjax.optim` on small beds of real data.

python -m experiments.studies.gradient_methods --bed=NAME ['--methods=mgda;pcgrad'] [--seeds=N] [--smoke]
python -m experiments.studies.tables

How arms are trained and compared: `experiments.studies.comparison`; beds: `experiments.studies.beds`. Every method has
its card's defaults. The sum of the losses is tuned as carefully as the rest, and twice more with its weights searched.
Writes experiments/results/gradient_methods/BED.json.
"""
from experiments.studies import beds, comparison
from experiments.studies.arms import methods

CLAIM = 'A method that resolves conflict or balances losses beats the sum of the losses, tuned as carefully.'

if __name__ == '__main__':
  comparison.main('gradient_methods', CLAIM, __doc__, methods, list(beds.BEDS))
