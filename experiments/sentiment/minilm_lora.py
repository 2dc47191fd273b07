r"""Sentiment of texts in four domains on a frozen pretrained encoder, all-MiniLM-L6-v2, with a LoRA a domain.

python -m mtjax.data.fetch minilm_l6
python -m mtjax.train --config=experiments/sentiment/minilm_lora.py --workdir=runs/sentiment_minilm_lora
  variants: minilm_lora.py:smoke   minilm_lora.py:seed=1   minilm_lora.py:rank=16
            minilm_lora.py:per=shared (one LoRA for all domains)
The rows of all domains go through the encoder in one call, each with the low-rank changes of its own domain.
"""
from experiments.common import parse_arg
from experiments.sentiment import minilm


def get_config(arg=None):
  """The streams and tasks of `domains.py` on the encoder of `minilm.py`, which stays as it is."""
  arg = parse_arg(arg, smoke=False, seed=0, rank=8, per='task')
  config = minilm.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.adapters = [dict(site='output', match=r'attn/(query|value)$', method=dict(name='lora', rank=arg.rank),
                          bank=dict(per=arg.per))]
  config.optimizer.lr = 2e-3
  return config
