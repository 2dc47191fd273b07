# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first multitask run
#
# One picture, two overlapping digits, two labels: *MultiMNIST*, the smallest benchmark of multitask learning. One encoder
# serves both tasks, each task has its own head. The digits come with mtjax; nothing is downloaded.

# %%
import pathlib
import sys
import tempfile

sys.path.insert(0, '..')  # the folder that holds `experiments`

import matplotlib.pyplot as plt
import numpy as np

import mtjax
from experiments.multimnist import joint
from mtjax.training.writers import read_metrics

# %% [markdown]
# ## Six lines
#
# A config is plain data. `build` checks it and puts the run together; with a `workdir` the run keeps metrics and checkpoints
# there, and the same call goes on where it was stopped.

# %%
config = joint.get_config()
config.steps, config.eval_every, config.log_every = 400, 100, 20
workdir = pathlib.Path(tempfile.mkdtemp())

run = mtjax.experiment.build(config, workdir)
state = run.init()
state, metrics = run.train(state)
test = run.evaluate(state)
{name: round(value, 3) for name, value in test.items()}

# %% [markdown]
# ## What it is made of
#
# Streams, tasks, parameters. Tasks of one stream are *multi-label*; with a stream a task they would be *heterogeneous*; a
# stream whose rows carry `task_id` is a *mixture*. The code is the same.

# %%
print(run.describe())

# %% [markdown]
# ## How the two tasks learnt
#
# `metrics.jsonl` in the workdir is the source of truth; every plot is a view of it.

# %%
history = read_metrics(workdir)
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout='constrained')
for task, color in zip(config.tasks, ('#0072B2', '#D55E00')):
  train = [(line['step'], line[f'train/{task}/loss']) for line in history if line['split'] == 'train']
  valid = [(line['step'], line[f'eval/{task}/accuracy']) for line in history if line['split'] == 'validation']
  axes[0].plot(*zip(*train), color=color, label=task)
  axes[1].plot(*zip(*valid), color=color, marker='o', label=task)
axes[0].set(xlabel='step', ylabel='training loss', yscale='log')
axes[1].set(xlabel='step', ylabel='validation accuracy', ylim=(0, 1))
_ = axes[1].legend(title='digit', frameon=False)

# %% [markdown]
# The left digit lies at the top left, the right one at the bottom right; where they overlap the brighter pixel wins.
#
# ## What the model sees, and says

# %%
stream = run.streams['multimnist']
rows = stream.sources['multimnist']['test'].rows(np.arange(8), ['image', 'left', 'right'])
outputs = run.predict(state, rows['image'])
fig, axes = plt.subplots(1, 8, figsize=(10, 1.9), layout='constrained')
for i, axis in enumerate(axes):
  axis.imshow(rows['image'][i, :, :, 0], cmap='gray')
  said = [int(outputs[task]['prediction'][i]) for task in ('left', 'right')]
  axis.set_title(f'{said[0]}, {said[1]}', color='black' if said == [rows['left'][i], rows['right'][i]] else '#D55E00')
  axis.axis('off')

# %% [markdown]
# Orange titles are mistakes. `run.report(state)` writes all this, and more, to one HTML file; `run.restore('best')` gives the
# checkpoint that was best on the validation split.
