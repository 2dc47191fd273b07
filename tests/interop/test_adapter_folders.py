"""Adapters alone on disk, ours and PEFT's: what comes back, what it does to the encoder, what is refused."""
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from adapters import table

from mtjax import adapters, tree
from mtjax.encoders import GPT2
from mtjax.interop import adapters as folders
from mtjax.interop import hf, peft

SPEC = adapters.Spec([
  dict(site='output', match=r'attn/query$', method=dict(name='lora', rank=2, alpha=4.0), bank=dict(tasks=('a', 'b'))),
  dict(site='output', match=r'fc1$', method=dict(name='vera', rank=3, seed=5), bank=dict(tasks=('a', 'b'))),
  dict(site='wrap', match=r'attn$', method=dict(name='compacter', n=2, rank=2), bank=dict(tasks=('a', 'b')))],
  trainable_base=[r'norm'])
GPT = GPT2(vocab_size=16, width=8, depth=1, heads=2, max_length=8, hidden=16, head=None)


@functools.cache
def base():
  return table.base_params()


@functools.cache
def state():
  return table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base(), SPEC, table.TOKENS))


def test_what_was_saved_comes_back(tmp_path):
  folders.save(tmp_path, state(), SPEC, base())
  found, spec = folders.load(tmp_path, base())
  assert spec == SPEC and jax.tree.structure(found) == jax.tree.structure(state())
  jax.tree.map(np.testing.assert_array_equal, found, state())
  stored = safetensors.numpy.load_file(tmp_path / 'adapters.safetensors')
  assert not any(path.startswith('stats/shared/vera') for path in stored)  # made again from the seed
  assert sum(x.size for x in stored.values()) < tree.count(state())


def test_another_encoder_is_refused(tmp_path):
  folders.save(tmp_path, state(), SPEC, base())
  wider = table.base_params(table.ENCODER.clone(hidden=12))
  with pytest.raises(ValueError, match=r'another encoder: block_0/mlp/fc1/bias is \[12\], was \[16\]'):
    folders.load(tmp_path, wider)
  with pytest.raises(ValueError, match='block_1/attn/key/bias is missing'):
    folders.load(tmp_path, {path: x for path, x in base().items() if path != 'block_1'})
  with pytest.raises(FileNotFoundError, match='holds no adapters'):
    folders.load(tmp_path / 'nowhere', base())


def peft_folder(folder, arrays, **config):
  folder.mkdir(exist_ok=True)
  safetensors.numpy.save_file(arrays, folder / 'adapter_model.safetensors')
  (folder / 'adapter_config.json').write_text(json.dumps(
    {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4, 'bias': 'none', **config}))


def random(*shape):
  return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


LAYER = 'base_model.model.encoder.layer.1.attention.self.value'


def test_a_peft_lora_changes_the_layer_that_it_names(tmp_path):
  a, b = random(2, 8), random(8, 2)
  peft_folder(tmp_path, {f'{LAYER}.lora_A.weight': a, f'{LAYER}.lora_B.weight': b})
  found, spec = peft.load(tmp_path, table.ENCODER, base())
  merged = adapters.merge(base(), found, spec)
  # In their layout, (out, in): W + alpha / r B A.
  for name, params in (('before', base()), ('after', merged)):
    hf.save(table.ENCODER, params, tmp_path / name)
  read = lambda name: safetensors.numpy.load_file(tmp_path / name / 'model.safetensors')
  before, after = read('before'), read('after')
  changed = [key for key in before if not np.array_equal(before[key], after[key])]
  assert changed == ['encoder.layer.1.attention.self.value.weight']
  np.testing.assert_allclose(after[changed[0]], before[changed[0]] + 2 * b @ a, rtol=1e-5, atol=1e-5)  # float32


def test_a_layer_that_is_several_of_ours_is_cut(tmp_path):
  params = table.base_params(GPT, np.ones((1, 2), np.int32))
  a, b = random(2, 8), random(24, 2)
  peft_folder(tmp_path, {f'base_model.model.transformer.h.0.attn.c_attn.lora_{part}.weight': x
                         for part, x in (('A', a), ('B', b))}, use_rslora=True, fan_in_fan_out=True)
  found, spec = peft.load(tmp_path, GPT, params)
  merged = adapters.merge(params, found, spec)
  change = [np.asarray(merged['block_0']['attn'][part]['kernel'] - params['block_0']['attn'][part]['kernel']).reshape(8, 8)
            for part in ('query', 'key', 'value')]
  np.testing.assert_allclose(np.concatenate(change, 1), 4 / 2**0.5 * (b @ a).T, rtol=1e-4, atol=1e-5)  # a difference


@pytest.mark.parametrize('name', ['lora', 'rs_lora', 'dora'])
def test_what_we_write_comes_back(tmp_path, name):
  spec = adapters.Spec([
    dict(site='output', match=r'attn/(query|out)$', method=dict(name=name, rank=2, alpha=4.0), bank=dict(tasks=('a', 'b'))),
    dict(site='output', match=r'fc1$', method=dict(name=name, rank=3), bank=dict(tasks=('a', 'b')))])
  own = table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base(), spec, table.TOKENS))
  peft.save(tmp_path, own, spec, table.ENCODER, task='b', base_model='tiny')
  config = json.loads((tmp_path / 'adapter_config.json').read_text())
  assert config['r'] == 2 and len(config['target_modules']) == 6 and len(config['rank_pattern']) == 2
  assert (config['use_rslora'], config['use_dora']) == (name == 'rs_lora', name == 'dora')
  found, found_spec = peft.load(tmp_path, table.ENCODER, base())
  one, _ = adapters.select(own, spec, 'b')
  flat = lambda tree_: {path.replace('@lora_1', '@x').replace('@lora', '@x').replace(f'@{name}_1', '@x').replace(f'@{name}', '@x'): x
                        for path, x in tree.flatten(tree_['adapters']).items()}
  found_leaves, wanted = flat(found), flat(one)
  assert found_leaves.keys() == wanted.keys()
  for path in wanted:
    np.testing.assert_array_equal(found_leaves[path], wanted[path])
  assert {(rule.method.rank, rule.method.scale) for rule in found_spec} == {
    (rule.method.rank, rule.method.scale) for rule in spec}


def test_what_peft_writes_that_we_do_not_read(tmp_path):
  peft_folder(tmp_path, {f'{LAYER}.lora_A.weight': random(2, 8)})
  with pytest.raises(ValueError, match=r"no place for: .*attention.self.value has \['A'\]"):
    peft.load(tmp_path, table.ENCODER, base())
  peft_folder(tmp_path, {'base_model.model.encoder.layer.7.output.dense.lora_A.weight': random(2, 8)})
  with pytest.raises(ValueError, match='encoder.layer.7.output.dense.lora_A.weight'):
    peft.load(tmp_path, table.ENCODER, base())
  peft_folder(tmp_path, {f'{LAYER}.lora_A.weight': random(2, 8), f'{LAYER}.lora_B.weight': random(6, 2)})
  with pytest.raises(ValueError, match='6, 2.* but our block_1/attn/value has .8. outputs of 8 inputs'):
    peft.load(tmp_path, table.ENCODER, base())
  for config, message in ((dict(peft_type='IA3'), "peft_type='IA3'"), (dict(bias='all'), "bias='all'")):
    peft_folder(tmp_path, {}, **config)
    with pytest.raises(ValueError, match=message):
      peft.load(tmp_path, table.ENCODER, base())
  with pytest.raises(ValueError, match='but the spec has Houlsby'):
    peft.save(tmp_path, {}, adapters.Spec([dict(site='wrap', match='x', method='houlsby')]), table.ENCODER)
  with pytest.raises(ValueError, match='block_0/attn/query.* is no layer of the published GPT2'):
    leaf = {'a': jnp.ones((8, 8)), 'b': jnp.ones((8, 8))}
    peft.save(tmp_path, {'adapters': {'block_0': {'attn': {'query': {'@lora': leaf}}}}},
              adapters.Spec([dict(site='output', match='query', method='lora')]), GPT)
