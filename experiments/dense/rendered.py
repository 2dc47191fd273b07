r"""Five dense tasks on rendered rooms, one encoder: what, how far, which way, where it ends, what is nearest.

python -m mtjax.train --config=experiments/dense/rendered.py --workdir=runs/dense
  variants: rendered.py:encoder=vit   rendered.py:seed=1   rendered.py:smoke (a few steps on the shipped sample)
The first run renders the data (pip install 'mtjax[render]'); encoder=efficientnet_lite begins with ImageNet's weights
(python -m mtjax.data.fetch efficientnet_lite0). `show.py` draws what a run sees.
Expected, on the test split, seed 0, one run (in brackets: the best guess at each pixel without a look at the picture,
`trivial.py`): segmentation mIoU 42 % (13), pixels right 88 % (72); depth off by 0.41 m (0.80) or 10 % (24); normals off
by 13 degrees (30), 65 % within 11.25 (20); edges odsF 0.92 (0.18), a pixel's distance allowed; saliency mIoU 83 % (45).
experiments/results/dense_convnet.json, dense_trivial.json. About eight minutes of one core's time.
"""
from experiments.common import base_config, parse_arg
from mtjax.config import did_you_mean

ENCODERS = {
  'convnet': dict(name='convnet', width=32, depths=(1, 1, 2, 2), stem_stride=2),
  'efficientnet_lite': dict(name='pretrained_efficientnet_lite', directory='fetched:efficientnet_lite0', classes=None),
  'swin': dict(name='swin', patch=2, width=32, depths=(2, 2, 2), heads=(2, 4, 8), window=4),
  'vit': dict(name='vit', patch=4, width=128, depth=6, heads=4, pool='mean'),
}
KINDS = 11


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0, encoder='convnet')
  if arg.encoder not in ENCODERS:
    raise ValueError(f'Unknown encoder {arg.encoder!r}. {did_you_mean(arg.encoder, ENCODERS)}')
  size = 32 if arg.smoke else 64
  head = lambda name, **fields: dict(
    name='multi_scale', width=24, head=dict(name=name, size=(size, size), hidden=(24,), **fields))
  config = base_config()
  config.seed = arg.seed
  config.data = dict(name='rendered_scenes', config='sample' if arg.smoke else 'full', batch_size=16, seed=arg.seed,
                     eval_batch_size=16 if arg.smoke else 50)
  config.tasks = {
    'segmentation': dict(label='segmentation', head=head('segmentation', classes=KINDS), loss='position_xent',
                         metrics=('miou', 'pixel_accuracy'), weight=1.0),
    'depth': dict(label='depth', head=head('depth', mean=4.5, std=2.5), loss='depth_l1',
                  metrics=('depth_abs', 'depth_rel', 'depth_rmse'), weight=1.0),
    'normals': dict(label='normals', head=head('normals'), loss='normal_cosine',
                    metrics=('mean_angle', 'median_angle', dict(name='angle_within', degrees=11.25)), weight=3.0),
    # a pixel is 0.011 of the diagonal: neighbours match
    'edges': dict(label='edges', head=head('edges'), loss=dict(name='edge_xent', positive=0.9),
                  metrics=(dict(name='ods_f', thresholds=19, tolerance=0.012),), weight=10.0),
    'saliency': dict(label='saliency', head=head('saliency'), loss='balanced_xent', metrics=('miou', 'pixel_accuracy'),
                     weight=4.0),
  }
  config.encoder = ENCODERS[arg.encoder]
  config.optimizer = dict(name='adamw', lr=2e-3, weight_decay=1e-2, clip_norm=1.0,
                          schedule=dict(name='cosine', warmup_steps=0.05))
  config.steps = 4 if arg.smoke else 2000
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (50, 1000, 1000)
  return config
