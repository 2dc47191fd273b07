"""What accelerators can do at most: their peaks, as the makers publish them, by the name that JAX gives the device.

All numbers are of one JAX device, per second and without sparsity. TPU v2 and v3 have two devices a chip (a core
each); from v4 on a chip is a device. Sources: NVIDIA's data sheets (V100, T4, A100, L4, H100, H200; where these state
peaks with 2:4 sparsity, half of that), https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm for TPUs, and
Jouppi et al., "A Domain-Specific Supercomputer for Training Deep Neural Networks", CACM 2020, for the links of v2 and
v3.

`flops_16` is of bfloat16 products (float16 on V100 and T4, which have no bfloat16 units), `flops_32` of float32
products as XLA makes them by default: TF32 on A100 and later, one bfloat16 pass on TPUs, plain float32 on V100 and T4.
`node_link` is what a device can send to the others of its node (NVLink, or PCIe where there is none; on TPUs the links
of the torus), `far_link` what it can send beyond: one 400 Gb/s adapter a GPU (200 with A100, 100 with older ones and
L4) is an assumption of ours, since that is the cluster's choice; a TPU slice has its torus throughout.
"""
import dataclasses

from mtjax.config import did_you_mean

TERA, GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
  """One JAX device.

  Attributes:
    name: short, for command lines.
    kinds: how `jax.Device.device_kind` begins; the longest match counts.
    flops_16, flops_32: floating-point operations a second, see the top of the file.
    memory: bytes.
    bandwidth: of the memory, bytes a second.
    node_link: bytes a second that a device can send within its node.
    far_link: and beyond.
    node: devices that share the fast links; 0 = all.
  """

  name: str
  kinds: tuple[str, ...]
  flops_16: float
  flops_32: float
  memory: float
  bandwidth: float
  node_link: float
  far_link: float
  node: int = 8


def _gpu(name, kinds, tera_16, tera_32, gigabytes, bandwidth, node_link, far_link, node=8):
  return Chip(name, kinds, tera_16 * TERA, tera_32 * TERA, gigabytes * GIGA, bandwidth * GIGA, node_link * GIGA,
              far_link * GIGA, node)


def _tpu(name, kinds, tera, gigabytes, bandwidth, gigabits):
  link = gigabits / 8 / 2 * GIGA  # published is the sum of both directions
  return Chip(name, kinds, tera * TERA, tera * TERA, gigabytes * GIGA, bandwidth * GIGA, link, link, 0)


CHIPS: dict[str, Chip] = {chip.name: chip for chip in (
  _gpu('v100', ('Tesla V100-SXM', 'NVIDIA V100'), 125, 15.7, 16, 900, 150, 12.5),
  _gpu('v100-pcie', ('Tesla V100-PCIE',), 112, 14, 16, 900, 16, 12.5, 4),
  _gpu('t4', ('Tesla T4', 'NVIDIA T4'), 65, 8.1, 16, 320, 16, 12.5, 4),
  _gpu('a100', ('NVIDIA A100-SXM4-40GB', 'A100-SXM4-40GB', 'NVIDIA A100-SXM'), 312, 156, 40, 1555, 300, 25),
  _gpu('a100-80gb', ('NVIDIA A100-SXM4-80GB', 'A100-SXM4-80GB'), 312, 156, 80, 2039, 300, 25),
  _gpu('a100-pcie', ('NVIDIA A100-PCIE', 'A100-PCIE'), 312, 156, 40, 1555, 32, 25, 4),
  _gpu('a100-pcie-80gb', ('NVIDIA A100 80GB PCIe',), 312, 156, 80, 1935, 32, 25, 4),
  _gpu('l4', ('NVIDIA L4',), 121, 60, 24, 300, 32, 12.5, 4),
  _gpu('h100', ('NVIDIA H100 80GB HBM3', 'NVIDIA H100'), 989.4, 494.7, 80, 3350, 450, 50),
  _gpu('h100-pcie', ('NVIDIA H100 PCIe',), 756, 378, 80, 2000, 64, 50, 4),
  _gpu('h100-nvl', ('NVIDIA H100 NVL',), 835, 417, 94, 3900, 300, 50, 2),
  _gpu('h200', ('NVIDIA H200',), 989.4, 494.7, 141, 4800, 450, 50),
  _tpu('tpu-v2', ('TPU v2',), 22.5, 8, 350, 992),
  _tpu('tpu-v3', ('TPU v3',), 61.5, 16, 450, 1312),
  _tpu('tpu-v4', ('TPU v4',), 275, 32, 1228, 2400),
  _tpu('tpu-v5e', ('TPU v5 lite', 'TPU v5e'), 197, 16, 819, 1600),
  _tpu('tpu-v5p', ('TPU v5p', 'TPU v5'), 459, 95, 2765, 4800),
  _tpu('tpu-v6e', ('TPU v6 lite', 'TPU v6e', 'TPU Trillium'), 918, 32, 1640, 3584),
)}
_NOT_KNOWN = ('NVIDIA L40', 'TPU v4 lite')  # begin like a chip of the table, and are another


def chip(name: str) -> Chip:
  """The chip called `name` in the table. Raises ValueError for one that is not there."""
  if name not in CHIPS:
    raise ValueError(f'Unknown chip {name!r}. {did_you_mean(name, CHIPS)}')
  return CHIPS[name]


def of_kind(device_kind: str) -> Chip | None:
  """The chip of a device; None where its peak is not in the table (a CPU, for one).

  Example:
    >>> of_kind('TPU v5 lite').name, of_kind('NVIDIA H100 PCIe').name, of_kind('cpu')
    ('tpu-v5e', 'h100-pcie', None)
  """
  if device_kind.startswith(_NOT_KNOWN):
    return None
  found = [(len(kind), entry) for entry in CHIPS.values() for kind in entry.kinds if device_kind.startswith(kind)]
  return max(found, key=lambda pair: pair[0])[1] if found else None
