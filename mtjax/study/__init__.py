"""Claims as code: what a study is, and what runs it (`python -m mtjax.study`)."""
# What a study file needs
from mtjax.study.definition import Parts, Study, single_task
from mtjax.studies.search import Choice, Search, Uniform, grid
from mtjax.studies.verdict import Claim, better, not_worse

# What runs it
from mtjax.study.runner import Runner, load_study

__all__ = ['Choice', 'Claim', 'Parts', 'Runner', 'Search', 'Study', 'Uniform', 'better', 'grid', 'load_study',
           'not_worse', 'single_task']
