r"""Transformers on noise, for timing and planning: a ViT and a GPT-2, in the published sizes and in small.

python -m mtjax.train --config=experiments/benchmarks/transformers.py:decoder_125m,dtype=bfloat16 --workdir=runs/decoder
  variants: vit_b16, decoder_125m (a GPU); decoder_1b (1.3B parameters: many); vit_small, decoder_small (a CPU)
Expected: nothing is learnt from noise; the report's table of speed is what it is for.
"""
from experiments.benchmarks import noise
from experiments.common import base_config, parse_arg

MODELS = {
  'vit_b16': dict(
    data='images_224', rows=128,
    encoder=dict(name='vit', patch=16, width=768, depth=12, heads=12)),
  'vit_small': dict(
    data='images_32', rows=16,
    encoder=dict(name='vit', patch=4, width=128, depth=4, heads=4)),
  'decoder_125m': dict(
    data='tokens_2048', rows=16,
    encoder=dict(name='gpt2', vocab_size=50257, width=768, depth=12, heads=12, max_length=2048)),
  'decoder_1b': dict(
    data='tokens_2048', rows=8,
    encoder=dict(name='gpt2', vocab_size=50257, width=2048, depth=24, heads=16, max_length=2048)),
  'decoder_small': dict(
    data='tokens_128', rows=8,
    encoder=dict(name='gpt2', vocab_size=512, width=128, depth=4, heads=4, max_length=128)),
}


def get_config(arg=None):
  """See the top of the file; `rows` is a device's share of a batch of `devices` devices."""
  models = {name: False for name in MODELS}
  arg = parse_arg(arg, dtype='float32', attention='auto', remat='none', rows=0, devices=1, steps=50, smoke=False,
                  seed=0, **models)
  chosen = [name for name in MODELS if arg[name]] or ['vit_small']
  if len(chosen) > 1:
    raise ValueError(f'One model at a time, got {", ".join(chosen)}.')
  model = MODELS[chosen[0]]
  config = base_config()
  config.seed = arg.seed
  config.data = dict(name=noise.NAME, config=model['data'], batch_size=(arg.rows or model['rows']) * arg.devices)
  config.encoder = dict(model['encoder'], dtype=arg.dtype, implementation=arg.attention, remat=arg.remat)
  if 'vocab_size' in model['encoder']:
    config.data.inputs = 'tokens'
    head = dict(name='language_model', vocab_size=model['encoder']['vocab_size'], tie=True)
    config.tasks = {'next': dict(label='tokens', head=head)}
  else:
    config.data.inputs = 'image'
    config.tasks = {'class': dict(label='class', head=dict(name='classification', classes=noise.CLASSES))}
  config.optimizer = dict(name='adam', lr=1e-4)
  config.steps, config.log_every, config.tensorboard = 4 if arg.smoke else arg.steps, 10, False
  config.eval_every = config.checkpoint_every = config.steps
  return config
