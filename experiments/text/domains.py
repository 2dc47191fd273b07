r"""Eight tasks of four kinds of text on one pretrained encoder, all-MiniLM-L6-v2, fine-tuned or as it is.

python -m mtjax.data.fetch minilm_l6 bbc_news debian_index bible
python -m mtjax.train --config=experiments/text/domains.py --workdir=runs/text_domains
  variants: domains.py:smoke   domains.py:seed=1   domains.py:frozen (heads alone are trained: the baseline)
Streams, each with a length of its own: sentiment x 4 (32 tokens; regression), BBC news (96; 5 topics), Debian's
package descriptions (48; 41 sections and 49 tags from one pass), pairs of Bible verses (64; the same verse or not).
A pair is one sequence with token types, as BERT reads pairs, and not two towers: streams draw rows one by one, so the
partner that a contrastive head needs in the batch would hardly ever be there.
The upper half of the blocks is trained, the embeddings and the lower half are not: half of the work of a step.
Expected on test after 150 steps (seed 0; in brackets heads alone, `frozen`): Pearson correlation tweets .82 (.77),
amazon .72 (.67), movies .66 (.60), nyt .57 (.50); accuracy topic .96 (.95), section .54 (.59); average precision tags
.15 (.22); AUC same_verse .93 (.74). 150 steps are few: the many classes of the last heads are learnt faster at the
rate of the frozen run, and common words alone tell the verses apart at .93. 17 minutes on two busy cores.
experiments/results/text_domains.json, text_domains_frozen.json.
"""
from experiments.common import base_config, parse_arg
from experiments.sentiment.domains import DOMAINS
from experiments.sentiment.minilm import LOWER_HALF, MODEL


def tokens(length, *column):
  """Formats of a stream: the tokens of a column, or of a pair of columns with their types."""
  spec = dict(column=column[0] if len(column) == 1 else column, path=MODEL, length=length)
  return {name: dict(name=name, **spec) for name in ('tokens', 'token_types')[:len(column)]}


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0, frozen=False)
  config = base_config()
  config.seed = arg.seed

  def stream(name, batch_size, train, validation, test, **fields):
    parts = dict(train=f'train[:{train}]', validation=f'validation[:{validation}]', test=f'test[:{test}]')
    few = {split: f'{split}[:{2 * batch_size}]' for split in parts}
    return dict(name=name, batch_size=batch_size, splits=few if arg.smoke else parts, **fields)

  # Evaluation would cost more than training on all of the large sets: their rows are in hash order, the first are any.
  config.data = dict(seed=arg.seed, streams={
    **{domain: stream('sentiment', 4, '100%', '5%', '100%', config=domain, inputs='tokens', format=tokens(32, 'text'))
       for domain in DOMAINS},
    'bbc': stream('bbc_news', 4, '100%', '50%', '100%', inputs='tokens', format=tokens(96, 'text')),
    'debian': stream('debian_topics', 16, 10_000, 128, 1_000, inputs='tokens', format=tokens(48, 'text')),
    'verses': stream('bible_pairs', 16, 10_000, 128, 1_000, inputs=('tokens', 'token_types'),
                     format=tokens(64, 'first', 'second'))})
  # The four domains count as one task; the tags' loss is a mean over 49 labels of which few are 1.
  config.tasks = {
    **{domain: dict(label='score', head=dict(name='regression', std=1.5), loss='mse', metrics=('pearson', 'rmse'),
                    weight=0.1, stream=domain) for domain in DOMAINS},
    'topic': dict(label='topic', head=dict(name='classification', classes=5), loss='softmax_xent',
                  metrics=('accuracy', 'macro_f1'), weight=0.5, stream='bbc'),
    'section': dict(label='section', head=dict(name='classification', classes=41), loss='softmax_xent',
                    metrics=('accuracy', 'macro_f1'), weight=1.0, stream='debian'),
    'tags': dict(label='tags', head=dict(name='multilabel', labels=49), loss='sigmoid_xent',
                 metrics=('average_precision', 'auc', 'macro_f1'), weight=5.0, stream='debian'),
    'same_verse': dict(label='same', head=dict(name='classification', classes=2), loss='softmax_xent',
                       metrics=('auc', 'accuracy'), weight=1.0, stream='verses'),
  }
  config.mesh = dict(data=1)  # batches of four rows are not worth dividing
  config.encoder = dict(name='hf', directory=MODEL, pool='mean')
  config.frozen = (r'^encoder/',) if arg.frozen else LOWER_HALF
  config.optimizer = dict(name='adamw', lr=1e-2 if arg.frozen else 2e-4, weight_decay=1e-2, decay=(r'kernel$',),
                          clip_norm=1.0, schedule=dict(name='cosine', warmup_steps=1 / 10))
  config.steps = 4 if arg.smoke else 150
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (15, 150, 150)
  return config
