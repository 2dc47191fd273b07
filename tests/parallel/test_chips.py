"""The table of accelerators' peaks."""
import jax
import pytest

from mtjax.parallel import chips


@pytest.mark.parametrize('kind, name', [
  ('NVIDIA A100-SXM4-40GB', 'a100'), ('NVIDIA A100-SXM4-80GB', 'a100-80gb'), ('NVIDIA A100 80GB PCIe', 'a100-pcie-80gb'),
  ('NVIDIA H100 80GB HBM3', 'h100'), ('NVIDIA H100 PCIe', 'h100-pcie'), ('NVIDIA H200', 'h200'),
  ('Tesla V100-SXM2-16GB', 'v100'), ('NVIDIA L4', 'l4'), ('Tesla T4', 't4'), ('TPU v2', 'tpu-v2'), ('TPU v3', 'tpu-v3'),
  ('TPU v4', 'tpu-v4'), ('TPU v5 lite', 'tpu-v5e'), ('TPU v5p', 'tpu-v5p'), ('TPU v5', 'tpu-v5p'), ('TPU v6 lite', 'tpu-v6e'),
])
def test_devices_are_known_by_their_kind(kind, name):
  assert chips.of_kind(kind).name == name


@pytest.mark.parametrize('kind', ['cpu', 'NVIDIA L40S', 'TPU v4 lite', 'NVIDIA GeForce RTX 4090', ''])
def test_of_others_nothing_is_claimed(kind):
  assert chips.of_kind(kind) is None
  assert chips.of_kind(jax.devices()[0].device_kind) is None


def test_numbers_are_those_of_one_device():
  assert chips.chip('h100').flops_16 == 989.4e12 and chips.chip('h100').flops_32 == 494.7e12
  assert 2 * chips.chip('tpu-v3').flops_16 == 123e12  # two devices a chip
  for chip in chips.CHIPS.values():
    assert chip.flops_16 > chip.flops_32 or chip.name.startswith('tpu')
    assert chip.far_link <= chip.node_link < chip.bandwidth < chip.flops_32
  with pytest.raises(ValueError, match="Unknown chip 'h10'. Did you mean 'h100'"):
    chips.chip('h10')
