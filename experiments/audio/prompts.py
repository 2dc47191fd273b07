r"""Spoken prompts in five languages: the language, and what is said, by Whisper-base, fine-tuned on short clips.
"""
from experiments.common import base_config, parse_arg
from mtjax.data.sources.asterisk import LANGUAGES, SAMPLE_RATE

MODEL = 'fetched:whisper_base'
TEMPLATE = '<|{language}|><|transcribe|><|notimestamps|> {transcript}<|endoftext|>'


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0, tiny=False, frozen=False, seconds=5.0)
  config = base_config()
  config.seed = arg.seed
  if arg.tiny or arg.smoke:
    targets = dict(template='{transcript}', path='bytes', length=64)
    writes = dict(tokenizer='bytes', prefix=1, max_new_tokens=64, stop_tokens=2)
    config.encoder = dict(name='whisper', vocab_size=259, width=64, depth=2, heads=4, frames=50 * int(arg.seconds),
                          max_length=128, start_id=0, dropout_rate=0.1)
  else:
    targets = dict(template=TEMPLATE, path=MODEL, length=40, names={'language': LANGUAGES})
    writes = dict(tokenizer=MODEL, prefix=3, max_new_tokens=36, stop_tokens=50257, suppress=MODEL)
    config.encoder = dict(name='ctranslate2', directory=MODEL)
  config.data = dict(
    name='asterisk', config='short', batch_size=16, eval_batch_size=32, seed=arg.seed, inputs=('inputs', 'targets'),
    format={'inputs': dict(name='whisper_spectrogram', column='audio', seconds=arg.seconds, sample_rate=SAMPLE_RATE),
            'targets': dict(name='targets', **targets)})
  config.tasks = {
    'language': dict(label='language', head=dict(name='classification', classes=len(LANGUAGES)),
                     metrics=('accuracy', 'log_loss')),
    'transcript': dict(
      label='targets', head=dict(name='language_model', vocab_size=259 if arg.tiny or arg.smoke else 51865, tie=True),
      loss='position_xent', generation=dict(**writes, limit=100),
      metrics=(dict(name='wer', normalisation='letters', by='language', groups=LANGUAGES),)),
  }
  config.optimizer = dict(name='adamw', lr=2e-5, weight_decay=0.0, clip_norm=1.0,
                          schedule=dict(name='cosine', warmup_steps=0.1))
  config.frozen = (r'^encoder/encoder/',) if arg.frozen else (r'pos_embed$',)
  config.steps = 200
  config.log_every, config.eval_every, config.checkpoint_every = 10, 100, 200
  return config
