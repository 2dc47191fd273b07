"""Packaging of mtjax. `pip install -e '.[report]'` is what the README's quickstart uses."""
import pathlib

import setuptools

CORE = [
  'jax>=0.10.2,<0.13',
  'flax>=0.12.8,<0.13',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  'ml_collections>=1.1',
  'tensorflow-datasets>=4.9.10,<5',
  'importlib_resources',  # tensorflow-datasets 4.9.10 imports it without declaring it
  'array_record',
  'grain>=0.2.18,<0.3',
  'absl-py',
  'etils[epath]',
  'einops',
  'numpy',
  'scikit-learn',  # host-side truth of ranking metrics (AUC, average precision)
  'scipy',
  'tqdm',
]

EXTRAS = {
  'cuda': ['jax[cuda13]'],
  'cuda12': ['jax[cuda12]'],
  'tpu': ['jax[tpu]'],
  'hf': ['tokenizers', 'sentencepiece', 'safetensors'],
  'tensorboard': ['tensorboard', 'tensorboardX'],
  'report': ['matplotlib'],
  'image': ['pillow'],
  'render': ['pybullet==3.2.7'],  # the renderer and the meshes are part of the data: another version, other pictures
  'text': ['sacrebleu>=2.6,<3', 'rouge-score>=0.1.2'],
  'sweep': ['optuna>=4.5,<6'],
  'notebooks': ['jupytext', 'ipykernel', 'nbclient', 'nbformat', 'matplotlib'],
}
EXTRAS['test'] = sorted({
  'pytest', 'pytest-xdist', 'hypothesis', 'ruff',
  *EXTRAS['hf'], *EXTRAS['tensorboard'], *EXTRAS['report'], *EXTRAS['image'], *EXTRAS['text'],
  *EXTRAS['sweep'], *EXTRAS['notebooks'],
})
EXTRAS['dev'] = sorted({*EXTRAS['test'], 'jupyterlab'})
_FOR_USE = ('hf', 'tensorboard', 'report', 'image', 'text', 'sweep', 'notebooks')
EXTRAS['all'] = sorted({req for name in _FOR_USE for req in EXTRAS[name]})

setuptools.setup(
  name='mtjax',
  version='0.1.0',
  description='A JAX research framework for multitask models.',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['mtjax', 'mtjax.*']),
  package_data={'mtjax.data': ['assets/*']},
  install_requires=CORE,
  extras_require=EXTRAS,
)
