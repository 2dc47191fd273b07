"""A study's verdict as Markdown: the whole text of a small one, and names that a reader sees as they are."""
import itertools
import re

from studies.verdicts import COMMAND, study

from mtjax.studies import study_markdown

HOSTILE = '<script>alert("x")</script>|a_*b*&$c$ `d`'


def test_names_are_escaped_in_markdown():
  verdict, frame = study((HOSTILE, 'old'), (HOSTILE, 'right'), baseline='old', warnings=[HOSTILE], title=HOSTILE)
  text = study_markdown.markdown(verdict, frame)
  assert '<script>' not in text.replace(COMMAND, '') and '&lt;script&gt;' in text
  blocks = [list(lines) for piped, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith('|')) if piped]
  assert len(blocks) == 8            # arms, tasks, changes, comparisons, validation of two tasks, cells, overrides
  for block in blocks:
    assert len({len(re.findall(r'(?<!\\)\|', line)) for line in block}) == 1      # as many columns in every row
    assert set(block[1]) <= set('| -:')


def test_escaped_text_of_markdown():
  assert study_markdown.escape('multi_mnist') == 'multi_mnist'            # inside a word it is no emphasis
  assert study_markdown.escape('_x_ [y](z)\n~~w~~') == r'\_x\_ [y\](z) \~\~w\~\~'
  assert study_markdown.escape('[0.1, 0.2]') == '[0.1, 0.2]'
  assert study_markdown.escape('a\\|b') == r'a\\\|b'


def test_the_command_may_hold_fences():
  text = study_markdown.markdown(*study(command='echo ```'))
  assert '````bash\necho ```\n````' in text


def test_markdown_as_a_whole():
  verdict, frame = study(seeds=(0,), steps=(10, 20), tasks=('left',), cells=[], comparisons=[], warnings=[])
  arm = dict(status='finished', n=1, seeds=[0], mean=0.5, interval=None, sd=None, iqm=0.5, iqm_interval=None, values={},
             delta_m=None, mean_rank=None, params=10, steps=20, seconds=1.0, overrides={}, tasks={'left': {'accuracy': dict(
               mean=0.5, interval=[0.25, 0.75], n=1, higher_is_better=True, change=None)}})
  verdict |= dict(arms={'new': arm, 'old': arm | dict(mean=0.25, overrides={'optimizer.lr': 0.1})}, paper=None)
  frame = frame.where(split='test')
  assert study_markdown.markdown(verdict, frame) == f"""\
# A made-up study

Study `made_up`.

> new is better than old.

**✓ Holds.** new is better than old by 0.01.

```bash
{COMMAND}
```

## Scores

On test: mean over n seeds, beneath it the 95 % interval. Bold: significantly the best, after Holm. ↑\u00a0more is better, ↓\u00a0less is better.

| arm | status | n | score ↑<br>accuracy, mean over tasks | IQM | parameters | steps | seconds |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| new | finished | 1 | 0.5000 | 0.5000 | 10 | 20 | 1.000 |
| old | finished | 1 | 0.2500 | 0.5000 | 10 | 20 | 1.000 |

### accuracy ↑

| task | new<br>n = 1 | old<br>n = 1 |
| --- | ---: | ---: |
| left | 0.5000<br>[0.2500, 0.7500] | 0.5000<br>[0.2500, 0.7500] |

## Settings

- Seeds: 0
- Score: accuracy, mean over tasks
- Split: test
- Step chosen by: last
- Commit: 0123abc
- Device: cpu x 1
- jax: 0.10.2

| arm | config | baseline |
| --- | --- | --- |
| new | – | – |
| old | optimizer.lr=0.1 | – |
"""
