"""Specs: which method sits where, with parameters from which bank; as objects, as a config, as JSON.

    Spec([Rule(site=output(r'attn/(query|value)$'), method=LoRA(rank=8), bank=Bank(tasks=('a', 'b'))),
          Rule(site=wrap(r'mlp$'), method=Parallel(rank=16))], trainable_base=[r'norm\\d/'])

In a config a rule is `dict(site='output', match=r'attn/(query|value)$', method=dict(name='lora', rank=8),
bank=dict(per='task'))`. Several rules may be at one site: they act in the order of the spec, the first one closest to
the module.
"""
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtjax.adapters.bank import Bank
from mtjax.adapters.method import Method
from mtjax.adapters.sites import Where
from mtjax.config import Registry, check_keys, to_dict

METHODS = Registry('adapter method', {
  'lora': 'mtjax.adapters.lora:LoRA',
  'rs_lora': 'mtjax.adapters.lora:RsLoRA',
  'dora': 'mtjax.adapters.dora:DoRA',
  'pissa': 'mtjax.adapters.pissa:PiSSA',
  'vera': 'mtjax.adapters.vera:VeRA',
  'ia3': 'mtjax.adapters.ia3:IA3',
  'bitfit': 'mtjax.adapters.bitfit:BitFit',
  'ln_tuning': 'mtjax.adapters.ln_tuning:LnTuning',
  'ssf': 'mtjax.adapters.ssf:SSF',
  'houlsby': 'mtjax.adapters.houlsby:Houlsby',
  'pfeiffer': 'mtjax.adapters.pfeiffer:Pfeiffer',
  'parallel': 'mtjax.adapters.parallel:Parallel',
  'scaled_parallel': 'mtjax.adapters.parallel:ScaledParallel',
  'prefix': 'mtjax.adapters.prefix:Prefix',
  'prompt': 'mtjax.adapters.prompt:Prompt',
  'compacter': 'mtjax.adapters.compacter:Compacter',
  'scalearn': 'mtjax.adapters.scalearn:ScaLearn',
  'adapter_fusion': 'mtjax.adapters.adapter_fusion:AdapterFusion',
  'lora_moe': 'mtjax.adapters.lora_moe:LoRAMoE',
  'conv_adapter': 'mtjax.adapters.conv_adapter:ConvAdapter',
  'normed_bottleneck': 'mtjax.adapters.normed_bottleneck:NormedBottleneck',
})
ROUTERS = Registry('router', {
  'poly': 'mtjax.adapters.poly:Poly',
  'uniform': 'mtjax.adapters.poly:Uniform',
})
GENERATORS = Registry('hypernetwork', {
  'hyperformer': 'mtjax.hypernets:HyperFormer',
  'hyperformer_plus': 'mtjax.hypernets:HyperFormerPlus',
  'polyhistor': 'mtjax.hypernets:Polyhistor',
  'polyhistor_lite': 'mtjax.hypernets:PolyhistorLite',
})


@dataclasses.dataclass(frozen=True)
class Rule:
  """One method at some sites.

  Attributes:
    site: a `Where` (`output(…)`, …), or its kind.
    method: a `Method`, or dict(name=…, **hyper-parameters).
    bank: a `Bank`, or its fields as a dict; by default one set for all tasks.
    match: with the kind of a site, the expression over module paths.
    start: with the kind 'span', that of the sibling whose input is captured.
    name: of the rule's parameters, '@name'; None = that of the method.
  """
  site: Any
  method: Any
  bank: Any = Bank()
  match: str | None = None
  start: str | None = None
  name: str | None = None

  def __post_init__(self):
    put = lambda field, value: object.__setattr__(self, field, value)
    if not isinstance(self.site, Where):
      put('site', Where(self.site, self.match, self.start))
    put('match', self.site.match)
    put('start', self.site.start)
    if not isinstance(self.method, Method):
      put('method', METHODS.build(self.method, 'method'))
    if not isinstance(self.bank, Bank):
      fields = to_dict(self.bank)
      check_keys(fields, Bank.__dataclass_fields__, 'bank')
      for field, registry in (('router', ROUTERS), ('generated_by', GENERATORS)):
        if isinstance(fields.get(field), (dict, str)):
          fields[field] = registry.build(fields[field], f'bank.{field}')
      put('bank', Bank(**fields))
    if self.site.kind not in self.method.kinds:
      raise ValueError(f'{type(self.method).__name__} cannot be at site={self.site.kind!r}; allowed: '
                       f'{", ".join(self.method.kinds)}.')
    if self.name is None:
      put('name', _name_of(self.method, METHODS).rpartition(':')[2].lower())
    if not re.fullmatch(r'\w+', self.name):
      raise ValueError(f'A rule has name={self.name!r}; allowed are letters, digits and _.')

  def to_json(self) -> dict[str, Any]:
    """The rule as a config writes it."""
    bank = {field: value for field, value in _fields(self.bank).items()
            if value != getattr(Bank, field, None) and field not in ('router', 'generated_by')}
    for field, registry in (('router', ROUTERS), ('generated_by', GENERATORS)):
      if getattr(self.bank, field) is not None:
        bank[field] = _component(getattr(self.bank, field), registry)
    span = {'start': self.start} if self.start is not None else {}
    return {'site': self.site.kind, 'match': self.match, **span, 'method': _component(self.method, METHODS),
            'bank': bank, 'name': self.name}


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that is done to an encoder.

  Attributes:
    rules: in the order in which they act.
    trainable_base: expressions over paths of the encoder's own parameters of which the state has copies that are
      trained, one for all tasks: norms, biases.
  """
  rules: Sequence[Rule]
  trainable_base: Sequence[str] = ()

  def __post_init__(self):
    rules, taken = [], {}
    for i, rule in enumerate(self.rules):
      if not isinstance(rule, Rule):
        known = [field for field in Rule.__dataclass_fields__]
        check_keys(rule, known, f'adapters.{i}')
        try:
          rule = Rule(**rule)
        except (TypeError, ValueError) as error:
          raise ValueError(f"'adapters.{i}': {error}") from error
      taken[rule.name] = taken.get(rule.name, -1) + 1
      if taken[rule.name]:
        rule = dataclasses.replace(rule, name=f'{rule.name}_{taken[rule.name]}')
      rules.append(rule)
    if len({rule.name for rule in rules}) < len(rules):
      raise ValueError(f'Two rules have one name: {", ".join(rule.name for rule in rules)}.')
    object.__setattr__(self, 'rules', tuple(rules))
    object.__setattr__(self, 'trainable_base', tuple(self.trainable_base))

  def __iter__(self) -> Iterator[Rule]:
    return iter(self.rules)

  def __getitem__(self, name: str) -> Rule:
    return next(rule for rule in self.rules if rule.name == name)

  def with_tasks(self, names: Sequence[str]) -> 'Spec':
    """The spec for these tasks, where a bank knows tasks and was not told which."""
    return self.map_banks(lambda bank: bank.with_tasks(names))

  def map_banks(self, fn) -> 'Spec':
    """The spec with other banks."""
    rules = [dataclasses.replace(rule, bank=fn(rule.bank)) for rule in self.rules]
    return dataclasses.replace(self, rules=rules)

  def task_index(self, task: int | str) -> int:
    """The id of a task that is given by name or id, by the first bank that has names."""
    for rule in self.rules:
      if isinstance(task, str) and isinstance(rule.bank.tasks, tuple):
        return rule.bank.task_index(task)
    if isinstance(task, str):
      raise ValueError(f'task={task!r}, but no bank of the spec names its tasks; give an id, or '
                       f'Bank(tasks=(names, …)).')
    return int(task)

  def to_json(self) -> dict[str, Any]:
    """Plain data, from which `from_json` makes the spec again."""
    return {'rules': [rule.to_json() for rule in self.rules], 'trainable_base': list(self.trainable_base)}

  @classmethod
  def from_json(cls, data: Mapping[str, Any] | Sequence[Any]) -> 'Spec':
    """The spec of a config: a list of rules, or dict(rules=[…], trainable_base=[…])."""
    data = to_dict(data)
    data = {'rules': data} if isinstance(data, list) else data
    check_keys(data, ('rules', 'trainable_base'), 'adapters')
    return cls(data.get('rules', ()), data.get('trainable_base', ()))


def _fields(component: Any) -> dict[str, Any]:
  return {field.name: to_dict(getattr(component, field.name)) for field in dataclasses.fields(component)}


def _name_of(component: Any, registry: Registry) -> str:
  kind = type(component)
  found = (name for name, entry in registry.entries.items() if entry.rpartition(':')[2] == kind.__qualname__)
  return next((name for name in found if registry.lookup(name) is kind), f'{kind.__module__}:{kind.__qualname__}')


def _component(component: Any, registry: Registry) -> dict[str, Any]:
  return {'name': _name_of(component, registry), **_fields(component)}
