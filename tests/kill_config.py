"""The run that `test_kill.py` kills: quick steps, a checkpoint every other one, arrays large enough to be caught half-written."""
import toy


def get_config(arg=None):
  """`arg`: the number of steps."""
  config = toy.config(steps=int(arg or 400), log_every=5, eval_every=50, checkpoint_every=2, ema=0.99)
  config.encoder = {'name': 'mlp', 'widths': (512, 512)}
  return config
