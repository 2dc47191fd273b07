"""Score frames for tests."""
from mtjax.studies.score_frame import ScoreFrame


def rows(arm, values, *, task='left', metric='accuracy', higher=True, split='test', step=9, selection='last', **more):
  """One row a seed; values: a list by seed, or {seed: value}."""
  values = values if isinstance(values, dict) else dict(enumerate(values))
  return [dict(run=f'{arm}-{seed}', arm=arm, seed=seed, task=task, metric=metric, higher_is_better=higher, split=split,
               step=step, selection=selection, value=value, **more) for seed, value in values.items()]


def frame(*groups):
  """Of several calls of `rows`."""
  return ScoreFrame.from_rows(row for group in groups for row in group)
