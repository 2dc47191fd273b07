r"""Sentiment of texts in four domains, one stream and one task each; a text transformer on bytes shared by all.

python -m mtjax.train --config=experiments/sentiment/domains.py --workdir=runs/sentiment
  variants: domains.py:smoke   domains.py:seed=1   --config.encoder.depth=4
The label is the mean of some 20 human ratings from -4 to 4. Inputs have one shape, so all four streams go through the
encoder in one call.
Expected: test Pearson correlation tweets .48, amazon .26, movies .16, nyt .01 (seed 0; a small byte model from nothing:
this config shows the regime, not what can be had), about 12 minutes on two busy CPU cores;
experiments/results/sentiment_domains.json.
"""
from experiments.common import base_config, parse_arg

DOMAINS = ('tweets', 'movies', 'amazon', 'nyt')


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0)
  config = base_config()
  config.seed = arg.seed
  streams = {domain: dict(name='sentiment', config=domain, batch_size=32) for domain in DOMAINS}
  config.data = dict(
    streams=streams, seed=arg.seed, inputs='tokens', format={'tokens': dict(name='bytes', column='text', length=128)})
  config.tasks = {
    domain: dict(label='score', head=dict(name='regression', std=1.5), loss='mse',
                 metrics=('pearson', 'spearman', 'rmse'), weight=1.0, stream=domain)
    for domain in DOMAINS
  }
  config.encoder = dict(name='byte_transformer', width=64, depth=2, heads=4, max_length=128, dropout_rate=0.1)
  config.optimizer = dict(name='adamw', lr=2e-3, weight_decay=1e-2, decay=(r'kernel$',), clip_norm=1.0,
                          schedule=dict(name='cosine', warmup_steps=1 / 6))
  config.steps = 4 if arg.smoke else 600
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (50, 200, 200)
  return config
