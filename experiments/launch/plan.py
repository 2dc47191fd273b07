r"""Whether a config fits a mesh of chips that are not there, and how long a step would take.

python -m experiments.launch.plan --config=FILE[:arg] --mesh=data=8,fsdp=32 --chip=h100 [--activations=traced]
    [--efficiency=0.6] [--overlap=0.8]

Memory, traffic and FLOPs of a device are those of `experiments.launch.footprint`; the time of a step is that of a roof:

    step      max(compute, memory) + exposed
    compute   FLOPs of a device / (efficiency x peak)
    memory    (2 activations + 3 parameters used + 2 optimizer state + 2 gradients) / bandwidth: written and read
    exposed   tensor + max(0, fsdp + data - overlap x max(compute, memory)), each being bytes sent / link

Williams et al., "Roofline", CACM 2009, https://doi.org/10.1145/1498765.1498785. The link of an axis is the fast one
where the axis and all axes behind it fit in a node. `efficiency`, the share of its peak that a chip reaches in matrix
products, and `overlap`, the share of the computation under which gathering and reducing can hide, are assumptions;
measure them (`experiments/benchmarks/scaling.py`) and put in your own. Left out: latency, stragglers, input,
evaluation, checkpoints.
"""
import argparse
import math
import sys
from collections.abc import Mapping

import jax

from experiments.launch.footprint import Footprint, footprint
from mtjax import tree
from mtjax.parallel import AXES, chips
from mtjax.study.definition import load_file

MOST_DEVICES = 64  # virtual ones that a step is compiled for


def seconds(needs: Footprint, chip: chips.Chip, efficiency: float = 0.6, overlap: float = 0.8) -> dict[str, float]:
  """{'compute', 'memory', 'data', 'fsdp', 'tensor', 'exposed', 'step'}; see the top of the file.

  Args:
    needs: of a device.
    chip: of all devices.
    efficiency: in 0 … 1, without 0.
    overlap: in 0 … 1.
  """
  if not 0 < efficiency <= 1:
    raise ValueError(f"'efficiency' must be in 0 … 1 (without 0), got {efficiency!r}.")
  if not 0 <= overlap <= 1:
    raise ValueError(f"'overlap' must be in 0 … 1, got {overlap!r}.")
  moved = 2 * needs.activations + 3 * needs.used + 2 * needs.optimizer + 2 * needs.gradients
  found = {'compute': needs.device_flops / (efficiency * _peak(needs, chip)), 'memory': moved / chip.bandwidth}
  found |= {axis: sent / link(needs.mesh, axis, chip) for axis, sent in needs.sent.items()}
  busy = max(found['compute'], found['memory'])
  found['exposed'] = found['tensor'] + max(0.0, found['fsdp'] + found['data'] - overlap * busy)
  return found | {'step': busy + found['exposed']}


def link(mesh: Mapping[str, int], axis: str, chip: chips.Chip) -> float:
  """Bytes a second that a device sends along an axis. Neighbours along the last axes share a node."""
  span = math.prod(mesh[other] for other in AXES[AXES.index(axis):])
  return chip.node_link if not chip.node or span <= chip.node else chip.far_link


def describe(needs: Footprint, chip: chips.Chip, efficiency: float = 0.6, overlap: float = 0.8) -> str:
  """The plan as a table."""
  times = seconds(needs, chip, efficiency, overlap)
  ms = lambda name: f'{1e3 * times[name]:.1f} ms'
  rows = [('memory of a device', '', '')]
  rows += [(f'  {name}', _size(getattr(needs, name)), '')
           for name in ('params', 'gradients', 'optimizer', 'activations', 'batch')]
  rows += [('  all', _size(needs.memory), f'{needs.memory / chip.memory:.0%} of {_size(chip.memory)}'),
           ('sent by a device a step', '', '')]
  rows += [(f'  over {axis}', _size(sent), f'{ms(axis)} at {link(needs.mesh, axis, chip) / 1e9:.0f} GB/s')
           for axis, sent in needs.sent.items()]
  mfu = needs.flops / (times['step'] * needs.devices * _peak(needs, chip))
  rows += [('time of a step', '', ''),
           ('  compute', ms('compute'), f'{needs.device_flops:.3g} FLOPs at {efficiency:.0%} of the peak'),
           ('  memory', ms('memory'), f'at {chip.bandwidth / 1e9:.0f} GB/s'),
           ('  exposed traffic', ms('exposed'), f'{overlap:.0%} of the computation hides fsdp and data'),
           ('  all', ms('step'), f'MFU {mfu:.0%}')]
  rate = needs.rows / times['step']
  shape = ', '.join(f'{axis}={size}' for axis, size in needs.mesh.items() if size > 1) or 'one device'
  head = f'{needs.devices} x {chip.name} ({shape}): {needs.parameters:,} parameters, {needs.rows:,} rows a step'
  tail = f', {rate * needs.positions:,.0f} positions' if needs.positions > 1 else ''
  warning = '' if needs.memory <= chip.memory else '\nThis does not fit.'
  return f'{head}\n\n{tree.align(rows)}\n\n{rate:,.0f} rows{tail} a second.{warning}'


def parse_mesh(text: str) -> dict[str, int]:
  """'data=8,fsdp=32' -> {'data': 8, 'fsdp': 32}. Raises ValueError."""
  pairs = [part.partition('=') for part in text.split(',')]
  if any(not name or not size.isdecimal() for name, _, size in pairs):
    raise ValueError(f"'mesh' is written like data=8,fsdp=32; got {text!r}.")
  return {name: int(size) for name, _, size in pairs}


def _size(count: float) -> str:
  for unit in ('B', 'KiB', 'MiB'):
    if count < 1024:
      return f'{count:.1f} {unit}'
    count /= 1024
  return f'{count:.2f} GiB'


def _peak(needs: Footprint, chip: chips.Chip) -> float:
  return chip.flops_16 if needs.narrow else chip.flops_32


def main() -> None:
  """Prints the plan."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', required=True, help='FILE[:arg], a file with get_config(arg=None)')
  parser.add_argument('--mesh', required=True, help='e.g. data=8,fsdp=32')
  parser.add_argument('--chip', required=True, choices=sorted(chips.CHIPS))
  parser.add_argument('--activations', default='compiled', choices=('compiled', 'traced'))
  parser.add_argument('--efficiency', type=float, default=0.6, help='share of the peak that matrix products reach')
  parser.add_argument('--overlap', type=float, default=0.8, help='share of the computation that hides fsdp and data')
  options = parser.parse_args()
  try:
    mesh = parse_mesh(options.mesh)
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', min(mesh.get('fsdp', 1) * mesh.get('tensor', 1), MOST_DEVICES))
    module, argument = load_file(options.config)
    needs = footprint(module.get_config(argument or None), mesh, options.activations)
    print(describe(needs, chips.chip(options.chip), options.efficiency, options.overlap))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  main()
