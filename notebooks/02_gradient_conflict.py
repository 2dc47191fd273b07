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
# # When tasks pull apart
#
# Two tasks share parameters. Where their gradients point against each other, a step for one is a step against the other; and
# where one gradient is a hundred times longer, the sum of the two is that one. An **aggregator** makes one update out of the
# tasks' gradients in another way than adding them. First on a problem of two numbers, where everything can be drawn; then
# in a real run.

# %%
import pathlib
import sys
import tempfile

sys.path.insert(0, '..')  # the folder that holds `experiments`

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import mtjax
from experiments import toy_pareto
from experiments.multimnist import conflict
from mtjax.training.writers import read_metrics

# %% [markdown]
# ## Three lines of optax
#
# Every aggregator is an optax transform. It takes *stacked* gradients, whose leaves have a leading axis over tasks, and gives
# one update; so it is the first member of a chain. `jax.jacrev` of a function that returns the vector of losses stacks them.

# %%
tx = optax.chain(mtjax.optim.upgrad(), optax.adam(1e-3))
x = jnp.array([-5.02, 2.0])  # in a valley of the problem below
jac, losses = jax.jacrev(toy_pareto.losses)(x), toy_pareto.losses(x)
updates, state = tx.update(jac, tx.init(x), x, losses=losses)

cosine = jac[0] @ jac[1] / jnp.prod(jnp.linalg.norm(jac, axis=1))
print(f'gradients {np.round(jac[0], 2)} and {np.round(jac[1], 2)}, their cosine {cosine:.2f}; update {updates}')

# %% [markdown]
# What a method does to two vectors can be drawn. The gradients are grey; they point apart, and one is nearly three times as long.
# Of each method the direction of its update is shown. The shaded cone holds the directions that harm neither task.

# %%
g = jnp.array([[1.0, 0.4], [-2.4, 1.8]])
directions = {
  'sum': mtjax.optim.linear_scalarisation(), 'MGDA': mtjax.optim.mgda(), 'PCGrad': mtjax.optim.pcgrad(),
  'CAGrad': mtjax.optim.cagrad(c=0.5), 'Nash-MTL': mtjax.optim.nash_mtl(), 'Aligned-MTL': mtjax.optim.aligned_mtl(),
}
colors = ('#000000', '#0072B2', '#009E73', '#D55E00', '#CC79A7', '#E69F00')

fig, axis = plt.subplots(figsize=(6, 3.2), layout='constrained')
normals = [np.array([-g[0, 1], g[0, 0]]), np.array([g[1, 1], -g[1, 0]])]  # where g1 and g2 are at right angles to d
cone = [1.3 * n / np.linalg.norm(n) for n in normals]
axis.fill(*np.transpose([(0, 0), *cone]), color='#56B4E9', alpha=0.2, lw=0, label='harms neither')
for vector, name in zip(g, ('$g_1$', '$g_2$')):
  axis.annotate('', vector, (0, 0), arrowprops=dict(color='0.6', width=2, headwidth=8))
  axis.annotate(name, vector, (0, 8), textcoords='offset points', color='0.4', ha='center')
for (name, method), color in zip(directions.items(), colors):
  d, _ = method.update(g, method.init(g[0]), g[0], losses=jnp.ones(2))
  d = d / jnp.linalg.norm(d)
  axis.plot([0, d[0]], [0, d[1]], color=color, label=name, lw=2)
axis.set(xlim=(-2.7, 1.6), ylim=(-0.1, 2.1), aspect='equal')
axis.axis('off')
_ = axis.legend(frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))

# %% [markdown]
# ## A hundred thousand steps on two numbers
#
# The problem is that of the CAGrad paper: two narrow valleys above, two bowls below. Contours are those of the sum of the two
# losses; the thick line at the bottom is the *Pareto set*, where no loss can fall without the other rising. A method should
# reach it from anywhere. Paths go from three starts (dots) to their ends (crosses), all with Adam at 1e-3. A run is one
# `lax.scan`, and the three starts are one `vmap`.

# %%
methods = {
  'sum': mtjax.optim.linear_scalarisation(), 'MGDA': mtjax.optim.mgda(), 'PCGrad': mtjax.optim.pcgrad(),
  'CAGrad': mtjax.optim.cagrad(c=0.5), 'IMTL-G': mtjax.optim.imtl_g(), 'Nash-MTL': mtjax.optim.nash_mtl(),
  'UPGrad': mtjax.optim.upgrad(), 'Aligned-MTL': mtjax.optim.aligned_mtl(),
  'FAMO': mtjax.optim.famo(gamma=0.0, bounds=-20.0),  # its logarithm needs a bound below these losses
}
starts = jnp.array(toy_pareto.STARTS)


def paths_of(method):
  tx = optax.chain(method, optax.adam(1e-3))
  run = jax.vmap(lambda start: toy_pareto.descend(tx, start, num_steps=100_000, every=200))
  return np.asarray(jax.jit(run)(starts))


paths = {name: paths_of(method) for name, method in methods.items()}

# %%
side = jnp.linspace(-10.5, 10.5, 211)
grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
height = np.asarray(jax.vmap(toy_pareto.losses)(grid).sum(1)).reshape(211, 211)
pareto = np.asarray(toy_pareto.pareto_set(701))

fig, axes = plt.subplots(3, 3, figsize=(9, 9), sharex=True, sharey=True, layout='constrained')
for axis, (name, path) in zip(axes.flat, paths.items()):
  axis.contour(side, side, height, levels=24, cmap='Greys', linewidths=0.6, alpha=0.7)
  axis.plot(*pareto.T, color='0.25', lw=5, solid_capstyle='round', alpha=0.6)
  for points, color in zip(path, ('#0072B2', '#D55E00', '#009E73')):
    axis.plot(*points.T, color=color, lw=1.8)
    axis.plot(*points[0], 'o', color=color)
    axis.plot(*points[-1], 'X', color=color, ms=9, mec='white')
  axis.set(title=name, aspect='equal', xlim=(-10.5, 10.5), ylim=(-10.5, 10.5),
           xticks=(-10, -5, 0, 5, 10), yticks=(-10, -5, 0, 5, 10))

# %% [markdown]
# The sum gets stuck in the valleys from two of the three starts. The others come down, and end at different points: MGDA,
# PCGrad, IMTL-G and Nash-MTL about where they touch the Pareto set first; CAGrad, UPGrad, Aligned-MTL and FAMO go on along it,
# towards the minimum of the mean in its middle. How far each end is from the Pareto set, and the mean loss there:

# %%
print(f'{"":12} {"distance to the Pareto set":30} mean loss at the end (-15.09 is the least)')
for name, path in paths.items():
  distance = [np.linalg.norm(pareto - end, axis=1).min() for end in path[:, -1]]
  mean = [float(toy_pareto.losses(end).mean()) for end in path[:, -1]]
  print(f'{name:12} {"  ".join(f"{d:6.2f}" for d in distance):30} {"  ".join(f"{m:6.2f}" for m in mean)}')

# %% [markdown]
# ## The same in a run
#
# In a config one line chooses the method. The gradients are never stacked there if that can be avoided: most methods need
# no more than the products of the gradients, and the engine prints which plan it has found and what that costs. Here are
# two runs on MultiMNIST, one by MGDA; the other by CAGrad with `c=0`, which is the plain mean, but sees the gradients apart
# and so can report their conflict.

# %%
histories, tests = {}, {}
for name, method in {'mean': dict(name='cagrad', c=0.0), 'MGDA': dict(name='mgda')}.items():
  config = conflict.get_config()
  config.aggregator = method
  config.steps, config.log_every, config.eval_every, config.checkpoint_every = 200, 10, 200, 200
  workdir = pathlib.Path(tempfile.mkdtemp())
  run = mtjax.experiment.build(config, workdir)
  state, _ = run.train(run.init())
  histories[name] = [line for line in read_metrics(workdir) if line['split'] == 'train']
  tests[name] = run.evaluate(state)
print(run.describe().split('\n\n')[-1])

# %% [markdown]
# Every line of `metrics.jsonl` says what the steps since the line before were like, under `gradients/`.

# %%
{name: round(value, 3) for name, value in histories['MGDA'][-1].items() if name.startswith('gradients/')}

# %%
def curve(name, key):
  return np.array([(line['step'], line[f'gradients/{key}']) for line in histories[name]]).T


fig, axes = plt.subplots(2, 3, figsize=(11, 5), sharex=True, layout='constrained')
looks = {'mean': ('#000000', '--'), 'MGDA': ('#0072B2', '-')}
panels = {'cosine/left/right': 'cosine between the gradients', 'conflicts': 'share of steps with conflict',
          'worst_progress': 'progress of the worst-off task', 'stationarity': 'stationarity gap'}
for axis, (key, title) in zip(axes.flat, panels.items()):
  for name, (color, dash) in looks.items():
    axis.plot(*curve(name, key), color=color, ls=dash, lw=1.3, label=name)
  axis.set_title(title, fontsize=10)
axes[0, 0].axhline(0, color='0.5', lw=1)
axes[0, 0].legend(frameon=False)
for axis, what in zip(axes.flat[4:], ('norm', 'weight')):
  for task, color, dash in (('left', '#0072B2', '-'), ('right', '#D55E00', '--')):
    axis.plot(*curve('MGDA', f'{what}/{task}'), color=color, ls=dash, lw=1.3, label=task)
  axis.set_title(f'{what} per task, MGDA', fontsize=10)
axes[1, 1].set(yscale='log', ylim=(0.5, 5))
axes[1, 1].set_yticks([0.5, 1, 2, 5], labels=['0.5', '1', '2', '5'], minor=False)
axes[1, 1].yaxis.set_minor_locator(plt.NullLocator())
axes[1, 1].legend(title='digit', frameon=False, ncols=2)
axes[1, 2].set_ylim(0, 1)
for axis in axes[1]:
  axis.set_xlabel('step')

# %%
for name, test in tests.items():
  print(name, {key: round(value, 3) for key, value in test.items() if key.endswith('accuracy')})

# %% [markdown]
# MGDA gives the left digit, whose gradient is the shorter one, the larger weight, and its update is the shorter for it; Adam
# makes up for the length. The gradients of a mini-batch point apart at about every third step here, but barely: their cosine
# stays close to 0, over ten steps even the mean sets no task back, and both methods read the digits about equally well. That
# too is worth knowing before a method is chosen. `run.report(state)` draws all this, the cosines of any number of tasks as a
# heatmap, in the section *Conflict between tasks* of `report.html`.
