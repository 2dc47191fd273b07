"""Verdicts and scores of made-up studies, as a runner writes them."""
import numpy as np

from mtjax.studies.score_frame import ScoreFrame

COMMAND = 'python -m mtjax.study --study=experiments/studies/made_up.py --workdir=studies/made_up'


def interval(values):
  if len(values) < 2:
    return None
  half = 2.776 * np.std(values, ddof=1) / len(values) ** 0.5     # Student's t, 4 degrees of freedom
  return [float(np.mean(values) - half), float(np.mean(values) + half)]


def study(arms=('new', 'old'), tasks=('left', 'right'), *, metrics=('accuracy',), failed=(), seeds=(0, 1, 2, 3, 4),
          steps=(10, 20, 30, 40), baseline=None, **changes):
  """(verdict, frame): arm i is better than arm i + 1 by a hundredth; of the metrics 'loss' is one to be small."""
  rng = np.random.default_rng(0)
  rows, entries, cells = [], {}, []
  for i, arm in enumerate(arms):
    broken = arm in failed
    cells += [dict(arm=arm, part='all', seed=seed, status='failed' if broken else 'finished',
                   message='loss of left is nan at step 7' if broken else '', seconds=None if broken else 12.5)
              for seed in seeds]
    scores = {}
    for task in () if broken else tasks:
      for metric in metrics:
        up, level = metric != 'loss', 0.9 - 0.01 * i
        level = level if up else 1 - level
        values = {seed: float(level + rng.normal(0, 0.003)) for seed in seeds}
        scores.setdefault(task, {})[metric] = dict(
          mean=float(np.mean(list(values.values()))), interval=interval(list(values.values())), n=len(seeds),
          higher_is_better=up, change=None if baseline is None or arm == baseline else 100 * (0.01 * (1 - i)) / 0.89)
        for seed, value in values.items():
          common = dict(run=f'{arm}_{seed}', arm=arm, seed=seed, task=task, metric=metric, higher_is_better=up)
          rows += [dict(common, split='validation', step=step, value=value - (0.3 if up else -0.3) * np.exp(-step / 12))
                   for step in steps]
          rows.append(dict(common, split='test', step=steps[-1], value=value))
    means = [own[metrics[0]]['mean'] for own in scores.values()]
    mean = float(np.mean(means)) if means else None
    entries[arm] = dict(
      status='failed' if broken else 'finished', n=0 if broken else len(seeds), seeds=[] if broken else list(seeds),
      mean=mean, interval=None if broken else [mean - 0.002, mean + 0.002], sd=None if broken else 0.003, iqm=mean,
      iqm_interval=None if broken else [mean - 0.001, mean + 0.001],
      values={} if broken else {str(seed): mean for seed in seeds},
      delta_m=None if baseline in (None, arm) or broken else dict(mean=1.1 - i, interval=[0.9 - i, 1.3 - i]),
      mean_rank=None if broken else dict(mean=1.0 + i, interval=[1.0 + i, 1.2 + i]),
      params=None if broken else 100_000 + 10_000 * i, steps=None if broken else steps[-1],
      seconds=None if broken else 12.5 / (i + 1), overrides={} if i == 0 else {'aggregator.name': arm}, tasks=scores)
  a, b = arms[0], arms[1]
  verdict = dict(
    study='made_up', title='A made-up study', paper='ftl', claim=f'{a} is better than {b}.', holds=True,
    sentence=f'{a} is better than {b} by 0.01.', metric=metrics[0], metric_text=f'{metrics[0]}, mean over tasks',
    higher_is_better=metrics[0] != 'loss', split='test', selection='last',
    baseline={} if baseline is None else {arm: baseline for arm in arms if arm != baseline}, arms=entries,
    best=dict(score=None, tasks={task: {metric: None for metric in metrics} for task in tasks}),
    comparisons=[comparison(a, b, task, metrics[0]) for task in (None, *tasks)], search=None, cells=cells, warnings=[],
    command=COMMAND, commit='0123abc', versions={'jax': '0.10.2'}, device='cpu x 1', seeds=list(seeds), smoke=False)
  return {**verdict, **changes}, ScoreFrame.from_rows(rows)


def comparison(a, b, task, metric, **changes):
  return {**dict(
    a=a, b=b, task=task, metric=metric, n=5, difference=0.01, interval=[0.004, 0.016], p=0.004, p_holm=0.012,
    effect_size=1.9, minimal_detectable_effect=0.007, verdict='better',
    sentence=f"'{a}' is better than '{b}' on {task or 'the score'}: +0.01, 5 seeds.", warnings=[], holds=True,
    role='better'), **changes}


def sweep(number=30, **changes):
  """A search over a learning rate, from 1e-4 to 1, and a method; the arms are lr_0, lr_1, …, the best is lr_7."""
  arms = [f'lr_{i}' for i in range(number)]
  verdict, frame = study(arms, ('left',), seeds=(0, 1, 2), steps=(10, 20))
  rates = np.logspace(-4, 0, number)
  values = {arm: {'optimizer.lr': float(rate), 'aggregator.name': ('mgda', 'pcgrad', 'equal')[i % 3]}
            for i, (arm, rate) in enumerate(zip(arms, rates))}
  validation = {arm: 0.9 - 0.002 * abs(i - 7) for i, arm in enumerate(arms)} | {arms[-1]: None}
  search = dict(method='grid', space={'optimizer.lr': '1e-4 to 1, logarithmic', 'aggregator.name': 'mgda, pcgrad, equal'},
                chosen='lr_7', split='validation', values=values, validation=validation)
  return {**verdict, 'search': search, 'comparisons': [], 'holds': None, **changes}, frame
