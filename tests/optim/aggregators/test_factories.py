"""What factories refuse, and that their examples run."""
import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import optax
import pytest

import mtjax.optim
from mtjax import optim
from mtjax.optim import aggregators, solvers


@pytest.mark.parametrize('call, message', [
  (lambda: optim.mgda(solver='exakt'), "unknown solver 'exakt'. Did you mean 'exact'"),
  (lambda: optim.mgda(num_iters=0), 'num_iters must be >= 1, got 0'),
  (lambda: optim.mgda(normalize='l1'), "unknown normalize 'l1'"),
  (lambda: optim.mgda_ub(statistic='sum'), "unknown statistic 'sum'. Did you mean 'summed'"),
  (lambda: optim.mgda_ub(solver='x'), "unknown solver 'x'"),
  (lambda: optim.upgrad(preference=(1, -1)), r'upgrad: preference .* got \[1.0, -1.0\]'),
  (lambda: optim.upgrad(regularisation=-1e-7), 'upgrad: regularisation must be'),
  (lambda: optim.dualproj(preference=(0, 0)), 'dualproj: preference'),
  (lambda: optim.dualproj(regularisation=float('nan')), 'dualproj: regularisation'),
  (lambda: optim.cagrad(c=-0.1), r'cagrad: c must be a finite number in \[0, inf\], got -0.1'),
  (lambda: optim.cagrad(rescale=3), 'rescale must be 0, 1 or 2, got 3'),
  (lambda: optim.config(preference=()), 'config: preference'),
  (lambda: optim.m_config(beta=1.0), r'm_config: beta must be a finite number in \[0, 1\), got 1.0'),
  (lambda: optim.m_config(preference=(-1,)), 'm_config: preference'),
  (lambda: optim.nash_mtl(max_norm=-1.0), 'nash_mtl: max_norm must be a number >= 0, or None for no clip, got -1.0'),
  (lambda: optim.nash_mtl(max_norm=float('nan')), 'nash_mtl: max_norm .* got nan'),
  (lambda: optim.nash_mtl(every_k=0), 'nash_mtl: every_k must be >= 1, got 0'),
  (lambda: optim.nash_mtl(regularisation=-1.0), 'nash_mtl: regularisation'),
  (lambda: optim.fairgrad(alpha=-1.0), 'fairgrad: alpha'),
  (lambda: optim.fairgrad(num_iters=0), 'fairgrad: num_iters'),
  (lambda: optim.aligned_mtl(mode='mean'), "unknown mode 'mean'"),
  (lambda: optim.pcd(tau=1.5), r'pcd: tau must be a finite number in \[0, 1\], got 1.5'),
  (lambda: optim.pcgrad(reduction='avg'), "unknown reduction 'avg'"),
  (lambda: optim.gradvac(beta=2.0), 'gradvac: beta'),
  (lambda: optim.gradvac(groups='layers'), "unknown groups 'layers'. Did you mean 'layer'"),
  (lambda: optim.gradvac(groups='layer', scale_heads=True), "scale_heads needs groups='model'"),
  (lambda: optim.krum(num_byzantine=-1), 'num_byzantine must be >= 0, got -1'),
  (lambda: optim.krum(num_selected=0), 'num_selected must be >= 1, got 0'),
  (lambda: optim.trimmed_mean(-1), 'num_trimmed must be >= 0, got -1'),
  (lambda: optim.cr_mogm(optim.mgda(), alpha=1.1), 'cr_mogm: alpha'),
  (lambda: optim.cr_mogm(optim.trimmed_mean()), r"'trimmed_mean' \(needs='jacobian'\) has none"),
])
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize('make', (optim.upgrad, optim.dualproj, optim.config, optim.aligned_mtl, optim.m_config))
def test_a_preference_has_one_entry_a_task(make):
  tx = make(preference=(1, 1, 1))
  with pytest.raises(ValueError, match=r'preference has 3 entries \[1.0, 1.0, 1.0\], but there are 2 tasks'):
    tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}))


MODULES = sorted(f'{package.__name__}.{module.name}' for package in (aggregators, solvers)
                 for module in pkgutil.iter_modules(package.__path__))


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  module = importlib.import_module(name)
  names = dict(jax=jax, jnp=jnp, optax=optax, mtjax=mtjax)
  result = doctest.testmod(module, extraglobs=names)
  public = name.rpartition('.')[2]
  assert result.failed == 0
  if hasattr(optim, public):
    assert result.attempted > 0, f'{name} shows no example'


def test_every_factory_is_exported():
  for module in pkgutil.iter_modules(aggregators.__path__):
    if not module.name.startswith('_'):
      assert getattr(optim, module.name) is getattr(aggregators, module.name)
