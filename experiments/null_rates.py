"""How often a study calls an arm better than itself: simulated from the stored scores of the null study.

python -m experiments.null_rates [--results=experiments/results] [--repetitions=200]

The 40 runs of experiments/studies/null.py are one arm. A repetition draws a study of n seeds for each of two arms from
them, and asks for the verdict that a study would give. Writes RESULTS/null/simulation.json.
"""
import argparse
import json
import pathlib

from experiments.common import provenance
from mtjax.studies.power import null_rates
from mtjax.studies.score_frame import ScoreFrame
from mtjax.studies.verdict import table

SIZES = (5, 6, 10, 20)
TESTS = ('auto', 'wilcoxon', 'sign_flip')


def main() -> None:
  """Simulates, writes, prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--results', default='experiments/results', type=pathlib.Path)
  parser.add_argument('--repetitions', default=200, type=int)
  options = parser.parse_args()
  folder = options.results / 'null'
  frame = ScoreFrame.read(folder / 'scores.jsonl').where(split='test')
  scores = [value for arm in ('once', 'again') for value in table(frame, arm, 'accuracy').by_seed.values()]
  rates = [{'seeds': size, 'test': test, **null_rates(scores, size, options.repetitions, test, seed=size)}
           for test in TESTS for size in SIZES]
  result = {**provenance('experiments.null_rates'), 'scores': len(scores), 'repetitions': options.repetitions,
            'rates': rates}
  (folder / 'simulation.json').write_text(json.dumps(result, indent=1) + '\n')
  for row in rates:
    print(f'{row["test"]:10} {row["seeds"]:3} seeds: better {row["better"]:.3f}, worse {row["worse"]:.3f}')


if __name__ == '__main__':
  main()
