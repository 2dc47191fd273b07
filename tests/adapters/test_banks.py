"""Banks: what each row gets, by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.adapters import Bank
from mtjax.adapters.bank import mix_slots
from mtjax.context import Ctx

STORED = {'down': jnp.arange(3.0)[:, None], 'up': 10 * jnp.arange(3.0)[:, None]}
IDS = jnp.array([2, 0])


def test_one_set_for_all_and_one_a_task():
  rows, batched = Bank().rows({'b': jnp.ones(2)}, None, 'r')
  assert not batched and rows['b'].tolist() == [1, 1]
  rows, batched = Bank(tasks=3).rows(STORED, Ctx(task_id=IDS), 'r')
  assert batched and rows['up'].tolist() == [[20], [0]]
  rows, batched = Bank(tasks=3).rows(STORED, Ctx(task_id=jnp.array(1)), 'r')
  assert not batched and rows['up'].tolist() == [10]
  rows, _ = Bank(tasks=3).rows(STORED, Ctx(mix=jnp.array([[0.5, 0.5, 0.0]])), 'r')
  assert rows['up'].tolist() == [[5]]


def test_a_task_that_does_not_exist_is_loud():
  for bank in (Bank(tasks=3), Bank(tasks=3, index={'up': (0, 1, 2)})):
    rows, _ = bank.rows(STORED, Ctx(task_id=jnp.array([3, 1])), 'r')
    assert np.isnan(rows['up'][0]).all() and rows['up'][1] == 10


def test_parts_are_shared_by_a_table():
  # VL-Adapter, half-shared: tasks 0 and 1 have one 'up', all have a 'down' of their own.
  bank = Bank(tasks=('a', 'b', 'c'), index={'up': (0, 0, 1)})
  stored = bank.init(jax.random.key(0), lambda key: {k: jax.random.normal(key, (2,)) for k in ('down', 'up')})
  assert stored['down'].shape == (3, 2) and stored['up'].shape == (2, 2)
  rows, _ = bank.rows(stored, Ctx(task_id=jnp.array([0, 1, 2])), 'r')
  assert np.array_equal(rows['up'][0], rows['up'][1]) and not np.array_equal(rows['down'][0], rows['down'][1])
  gradient = jax.grad(lambda stored: sum(
    x.sum() for x in bank.rows(stored, Ctx(task_id=jnp.array([1])), 'r')[0].values()))(stored)
  assert gradient['down'].tolist() == [[0, 0], [1, 1], [0, 0]] and gradient['up'].tolist() == [[1, 1], [0, 0]]


def test_a_task_more_leaves_the_others_as_they_were():
  make = lambda key: {'b': jax.random.normal(key, (2,))}
  two, three = (Bank(tasks=names).init(jax.random.key(0), make)['b'] for names in (('a', 'b'), ('new', 'b', 'a')))
  np.testing.assert_array_equal(two, three[jnp.array([2, 1])])


def test_prepared_once_a_task_or_once_a_row():
  calls = []

  def prepare(p):
    calls.append(1)
    return {'both': p['down'] + p['up']}

  many = Bank(tasks=3).rows(STORED, Ctx(task_id=jnp.array([2, 0, 1, 1])), 'r', prepare)[0]
  few = Bank(tasks=3).rows(STORED, Ctx(task_id=IDS), 'r', prepare)[0]
  assert many['both'].ravel().tolist() == [22, 0, 11, 11] and few['both'].ravel().tolist() == [22, 0] and len(calls) == 2


def test_splits_mix_their_own_part_of_the_features():
  # K = 2 sets of 4 features, Q = 2 splits of 2: the first takes set 0, the second set 1.
  x = jnp.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
  weights = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  assert mix_slots(x, weights, 2, 0).tolist() == [1, 2, 30, 40]
  assert mix_slots(x[:, None], weights, 2, 1).tolist() == [[1, 2, 30, 40]]
  assert mix_slots(x, jnp.stack([weights, weights[::-1]]), 2, 0).tolist() == [[1, 2, 30, 40], [10, 20, 3, 4]]
  assert mix_slots(x, weights, 2, None).tolist() == [5.5, 11, 16.5, 22]  # no features: the mean
  with pytest.raises(ValueError, match='splits=3, which does not divide the 4'):
    mix_slots(x, jnp.ones((3, 2)), 3, 0)


@pytest.mark.parametrize('fields, message', [
  (dict(per='tasks'), "per='tasks'. Did you mean 'task'"), (dict(tasks=0), 'tasks=0'),
  (dict(tasks=('a', 'a')), 'may be there once'), (dict(per='skill'), "per='skill', skills=None"),
  (dict(tasks=2, splits=2), "splits=2 with per='task'"), (dict(tasks=2, index={'a': (0, 2)}), r"index\['a'\]=\(0, 2\)"),
])
def test_what_is_no_bank(fields, message):
  with pytest.raises(ValueError, match=message):
    Bank(**fields)


def test_what_a_bank_needs_is_said():
  with pytest.raises(ValueError, match="rule 'r' has parameters a task"):
    Bank(tasks=3).rows(STORED, None, 'r')
  with pytest.raises(ValueError, match='no router'):
    Bank(skills=3).rows(STORED, Ctx(task_id=IDS), 'r')
  with pytest.raises(ValueError, match="Unknown task 'd'. Known: a, b"):
    Bank(tasks=('a', 'b')).task_index('d')
  with pytest.raises(ValueError, match=r'ctx.task_id is float32 \[2\]'):
    Bank(tasks=3).rows(STORED, Ctx(task_id=jnp.ones(2)), 'r')
