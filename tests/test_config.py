import ml_collections
import pytest

from mtjax import config
from mtjax.config import Registry


class Thing:
  def __init__(self, size, rate=0.1, *, given=None):
    self.size, self.rate, self.given = size, rate, given


THINGS = Registry('thing', {'thing': f'{__name__}:Thing'})


def test_components_by_name_or_import_path():
  assert THINGS.build(dict(name='thing', size=3), 'x').size == 3
  assert THINGS.build(ml_collections.ConfigDict(dict(name=f'{__name__}:Thing', size=2, rate=0.5)), 'x').rate == 0.5
  assert THINGS.build(dict(name='thing', size=3), 'x', given='by us').given == 'by us'
  assert list(THINGS) == ['thing']


@pytest.mark.parametrize('spec, words', [
  (dict(name='thng'), "Unknown thing 'thng'. Did you mean 'thing'? Known: thing. Your own is written"),
  (dict(size=3), "'x' needs a name. Known: thing."),
  (dict(name='thing', sise=3), "Unknown config key 'x.sise'. Did you mean 'size'? Known: rate, size."),
  (dict(name='thing'), "'x' is incomplete: missing a required argument: 'size'"),
  (dict(name='thing', size=3, given=1), "Unknown config key 'x.given'"),
  (dict(name=3, size=3), 'A thing is named by a string, got 3. Known: thing.'),
  (dict(name='nowhere:Thing'), "The thing 'nowhere:Thing' cannot be imported"),
])
def test_what_is_wrong_with_a_component(spec, words):
  with pytest.raises(ValueError) as error:
    THINGS.build(spec, 'x', given='by us')
  assert words in str(error.value)


def test_differences_are_listed_by_field():
  old = ml_collections.ConfigDict(dict(a=1, b=dict(c=(1, 2), d={})))
  assert config.differences(old, dict(a=1, b=dict(c=[1, 2], d={}))) == []
  assert config.differences(old, dict(a=2, b=dict(c=[1, 2]))) == ["a: 1 -> 2", "b.d: {} -> '(absent)'"]
