r"""The same trunks and heads under TorchJD, as ratios to PyTorch's plain step; see `gradients.py --with-torchjd`.

Needs `pip install torch 'torchjd[quadprog-projector]'`. Each variant runs in a process of its own, so that the growth
of the peak resident memory over a first step says what that kind of step takes.
  autojac      mtl_backward: the Jacobian of the shared parameters, then UPGrad
  autogram     Engine.compute_gramian, UPGradWeighting, then a weighted backward pass
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time


def measure(trunks, tasks, rounds):
  """{'mlp, T=4': {variant: {ms, time_ratio, memory_mib, memory_ratio}}}."""
  result = {}
  for trunk in trunks:
    for num_tasks in tasks:
      rows = {}
      for variant in ('plain', 'autojac', 'autogram'):
        command = [sys.executable, '-m', 'experiments.benchmarks._torchjd', trunk, str(num_tasks), variant, str(rounds)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
          raise RuntimeError(f"TorchJD needs: pip install torch 'torchjd[quadprog-projector]'. It said\n{run.stderr}")
        rows[variant] = json.loads(run.stdout.splitlines()[-1])
      for row in rows.values():
        row['time_ratio'] = row['ms'] / rows['plain']['ms']
        row['memory_ratio'] = row['memory_mib'] / rows['plain']['memory_mib']
      result[f'{trunk}, T={num_tasks}'] = rows
      shown = ', '.join(f'{name} x{row["time_ratio"]:.2f} time x{row["memory_ratio"]:.2f} memory'
                        for name, row in rows.items())
      print(f'TorchJD, {trunk}, T = {num_tasks}: {shown}', flush=True)
  return result


def peak():
  """Peak resident memory of this process in MiB."""
  with open('/proc/self/status') as file:
    return int(re.search(r'VmHWM:\s+(\d+)', file.read()).group(1)) / 1024


def main(trunk, num_tasks, variant, rounds):
  """One variant: prints {ms, memory_mib}."""
  import torch
  from torch import nn
  from torchjd.aggregation import UPGrad, UPGradWeighting
  from torchjd.autogram import Engine
  from torchjd.autojac import jac_to_grad, mtl_backward

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)

  class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width):
      super().__init__()
      self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
      self.attention = nn.MultiheadAttention(width, 3, batch_first=True)
      self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
      y = self.norm1(x)
      x = x + self.attention(y, y, y, need_weights=False)[0]
      return x + self.mlp(self.norm2(x))

  class ViT(nn.Module):
    """Width 192, depth 6, 64 tokens."""

    def __init__(self):
      super().__init__()
      self.embed = nn.Conv2d(3, 192, 4, 4)
      self.position = nn.Parameter(torch.randn(64, 192) * 0.02)
      self.blocks = nn.Sequential(*(Block(192) for _ in range(6)))
      self.norm = nn.LayerNorm(192)

    def forward(self, x):
      x = self.embed(x).flatten(2).transpose(1, 2) + self.position
      return self.norm(self.blocks(x)).mean(1)

  if trunk == 'mlp':
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024),
                          nn.ReLU())
    x, width = torch.randn(128, 784), 1024
  else:
    model, x, width = ViT(), torch.randn(16, 3, 32, 32), 192
  heads = [nn.Linear(width, 10, bias=False) for _ in range(num_tasks)]
  y = torch.randint(10, (num_tasks, len(x)))
  shared, owned = list(model.parameters()), [p for head in heads for p in head.parameters()]
  aggregator, weighting = UPGrad(), UPGradWeighting()
  engine = Engine(model, batch_dim=None) if variant == 'autogram' else None

  def step():
    for p in (*shared, *owned):
      p.grad = None
    z = model(x)
    losses = [nn.functional.cross_entropy(head(z), y[t]) for t, head in enumerate(heads)]
    if variant == 'plain':
      sum(losses).backward()
    elif variant == 'autojac':
      mtl_backward(losses, features=z)
      jac_to_grad(shared, aggregator)
    else:
      stacked = torch.stack(losses)
      weights = weighting(engine.compute_gramian(stacked))
      stacked.backward(weights)

  before = peak()
  step()
  memory = peak() - before
  times = []
  for _ in range(3 * rounds):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
  print(json.dumps({'ms': 1e3 * statistics.median(times), 'memory_mib': memory, 'torch': torch.__version__}))


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
