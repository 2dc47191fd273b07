"""Hypernetworks: networks that generate the parameters of adapters, `Bank(generated_by=…)` of `mtjax.adapters`."""
from mtjax.hypernets.hyperformer import HyperFormer, HyperFormerPlus
from mtjax.hypernets.polyhistor import Polyhistor, PolyhistorLite

__all__ = ['HyperFormer', 'HyperFormerPlus', 'Polyhistor', 'PolyhistorLite']
