"""Specs: names, order, defaults, and what is refused before anything runs."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table

from mtjax import adapters
from mtjax.adapters import Bank, LoRA, Rule, Spec, output, span

QUERY = dict(site='output', match=r'query$')


def test_rules_as_objects_and_as_a_config_are_the_same():
  config = Spec.from_json([{**QUERY, 'method': dict(name='lora', rank=4), 'bank': dict(tasks=['a', 'b'])}])
  assert config == Spec([Rule(output(r'query$'), LoRA(rank=4), Bank(tasks=('a', 'b')))])
  assert Spec([Rule(span('fc1', 'fc2'), 'parallel')]).rules[0].site.start == 'fc1'


def test_two_rules_of_one_method_have_two_names():
  spec = Spec([{**QUERY, 'method': 'lora'}, {**QUERY, 'method': 'lora'}, {**QUERY, 'method': 'ssf', 'name': 'mine'}])
  assert [rule.name for rule in spec] == ['lora', 'lora_1', 'mine'] and spec['mine'].method == adapters.SSF()
  with pytest.raises(ValueError, match='Two rules have one name'):
    Spec([{**QUERY, 'method': 'lora', 'name': 'lora_1'}, {**QUERY, 'method': 'lora'}, {**QUERY, 'method': 'lora'}])


def test_banks_get_the_tasks_of_the_run_unless_they_were_told():
  spec = Spec([{**QUERY, 'method': 'lora', 'bank': bank} for bank in (
    dict(per='task'), dict(tasks=3), {}, dict(per='skill', skills=2, router='poly'))]).with_tasks(['x', 'y'])
  assert [rule.bank.num_tasks for rule in spec] == [2, 3, None, 2]
  assert spec.task_index('y') == 1
  with pytest.raises(ValueError, match='no bank of the spec names its tasks'):
    Spec([{**QUERY, 'method': 'lora'}]).task_index('y')


def test_rules_act_in_their_order():
  encoder, x = nn.Dense(2), np.ones((1, 2), np.float32)
  base = {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}
  lora, ssf = dict(site='output', match='^$', method=dict(name='lora', rank=1)), dict(site='output', match='^$', method='ssf')
  state = {'adapters': {'@lora': {'a': jnp.ones((2, 1)), 'b': jnp.ones((1, 2))},
                        '@ssf': {'scale': jnp.full(2, 10.0), 'shift': jnp.zeros(2)}}}
  # x = 1: first LoRA, (1 + 2) * 10; or first the scale, 10 + 2
  for rules, wanted in (([lora, ssf], 30), ([ssf, lora], 12)):
    found = adapters.bind(encoder, Spec(rules))(base, state, x)[0]
    assert found.tolist() == [[wanted, wanted]]
    merged = adapters.merge(base, state, Spec(rules))
    assert encoder.apply({'params': merged}, x).tolist() == [[wanted, wanted]]


@pytest.mark.parametrize('rule, message', [
  ({**QUERY, 'method': 'prefix'}, "Prefix cannot be at site='output'; allowed: kv"),
  ({**QUERY, 'method': 'lora', 'name': 'a/b'}, "name='a/b'"),
  ({**QUERY, 'match': '(', 'method': 'lora'}, r"match='\(', no regular expression"),
  ({'site': 'span', 'match': 'fc2', 'method': 'parallel'}, "site='span' has start=None"),
  ({**QUERY, 'method': 'lora', 'bank': dict(task=3)}, "Unknown config key 'bank.task'. Did you mean 'tasks'"),
  ({**QUERY, 'method': 'lora', 'bank': dict(skills=3, router='polly')}, "Unknown router 'polly'. Did you mean 'poly'"),
])
def test_what_is_no_rule(rule, message):
  with pytest.raises(ValueError, match=message):
    Spec([rule])


def test_what_finds_nothing_or_is_not_alone():
  base = jax.eval_shape(table.ENCODER.init, jax.random.key(0), table.TOKENS)['params']
  find = lambda *rules: adapters.find_sites(table.ENCODER, base, Spec(rules), table.TOKENS)
  with pytest.raises(ValueError, match='finds no module to adapt: modules are .*block_0/attn'):
    find(dict(site='output', match='qury', method='lora'))
  with pytest.raises(ValueError, match='it finds block_0/norm1, .* which LoRA does not fit'):
    find(dict(site='output', match='norm1$', method='lora'))
  with pytest.raises(ValueError, match="'dora' and 'ssf' are both at 'block_0/attn/query'.* must be alone there"):
    find({**QUERY, 'method': 'dora'}, {**QUERY, 'method': 'ssf'})
  with pytest.raises(ValueError, match="no submodule 'key' with a kernel"):
    find(dict(site='kv', match='mlp$', method='prefix'))
