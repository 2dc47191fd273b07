r"""Spoken prompts in five languages: which language, and what is said; Whisper-base, fine-tuned on clips of 3 seconds.

python -m mtjax.data.fetch asterisk whisper_base
python -m mtjax.train --config=experiments/audio/prompts.py --workdir=runs/prompts
  variants: prompts.py:smoke   prompts.py:seed=1   --config.steps=300
            prompts.py:tiny (a small Whisper from nothing that writes bytes)
            prompts.py:whole (all of it is trained, not its decoder and the upper two blocks of its encoder alone)
Both tasks are on one log-mel spectrogram. `language` reads the mean of the encoder's states. `transcript` is written by
the decoder: it learns the next token of language, task, no timestamps, text and end, and is measured by the word error
rate, of all test clips and of each language, of what it writes greedily when the language is given. Texts are compared
in lower case, without accents (which the Spanish transcripts lack) and punctuation. Validation is on 96 clips, of which
32 are written.
Expected on test (seed 0; in brackets before fine-tuning, run.evaluate(run.init()), where Whisper, which was trained
on 30 seconds, repeats itself on 3): word error rate .32 (2.15); en .13 (4.65), es .37 (1.33), fr .39 (1.77), it .35
(1.66), ru .37 (1.24); language accuracy .66, since 60 steps are few. Seven minutes on two cores;
experiments/results/prompts.json. A language is one voice here, so its accuracy says nothing of other voices.
"""
from experiments.common import base_config, parse_arg
from mtjax.data.sources.asterisk import LANGUAGES, SAMPLE_RATE, SHORT

MODEL = 'fetched:whisper_base'
TEMPLATE = '<|{language}|><|transcribe|><|notimestamps|> {transcript}<|endoftext|>'
END = 50257
FROZEN = (r'^encoder/encoder/(conv\d|pos_embed|block_[0-3])', r'^encoder/decoder/.*embed')


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0, tiny=False, whole=False)
  tiny = arg.tiny or arg.smoke
  config = base_config()
  config.seed = arg.seed
  if tiny:
    vocab_size, targets = 259, dict(template='{transcript}', path='bytes', length=64)
    writes = dict(tokenizer='bytes', prefix=1, max_new_tokens=48, stop_tokens=2)
    config.encoder = dict(name='whisper', vocab_size=vocab_size, width=64, depth=2, heads=4, frames=int(50 * SHORT),
                          max_length=64, start_id=0, dropout_rate=0.1)
  else:
    vocab_size, targets = 51865, dict(template=TEMPLATE, path=MODEL, length=26, names={'language': LANGUAGES})
    writes = dict(tokenizer=MODEL, prefix=3, max_new_tokens=23, stop_tokens=END, suppress=MODEL)
    config.encoder = dict(name='ctranslate2', directory=MODEL)
  config.data = dict(
    name='asterisk', config='short', batch_size=32 if tiny else 8, eval_batch_size=32, seed=arg.seed,
    inputs=('inputs', 'targets'), splits={'validation': 'validation[:96]'},
    format={'inputs': dict(name='whisper_spectrogram', column='audio', seconds=SHORT, sample_rate=SAMPLE_RATE),
            'targets': dict(name='targets', **targets)})
  config.tasks = {
    'language': dict(label='language', head=dict(name='classification', classes=len(LANGUAGES)), loss='softmax_xent',
                     metrics=('accuracy', 'log_loss'), weight=1.0),
    'transcript': dict(label='targets', head=dict(name='language_model', vocab_size=vocab_size, tie=True),
                       loss='position_xent', generation=dict(**writes, limit=8 if arg.smoke else 32), weight=1.0,
                       metrics=(dict(name='wer', normalisation='letters', by='language', groups=LANGUAGES), 'chrf')),
  }
  config.optimizer = dict(name='adamw', lr=2e-3 if tiny else 5e-5, weight_decay=0.0, clip_norm=1.0,
                          schedule=dict(name='cosine', warmup_steps=0.1))
  config.frozen = () if tiny or arg.whole else FROZEN
  config.steps = 4 if arg.smoke else 1000 if arg.tiny else 60
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (10, 60, 60)
  return config
