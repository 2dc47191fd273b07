"""Adapters: what modifies a given encoder per task, without editing it.

    spec = Spec([Rule(site=output(r'attn/(query|value)$'), method=LoRA(rank=8), bank=Bank(tasks=('a', 'b')))])
    state = init_adapters(key, encoder, base, spec, example)
    forward = bind(encoder, spec)
    features, _ = forward(base, state, x, ctx=Ctx(task_id=ids))
    alone = merge(base, state, spec, task='a')
"""
from mtjax.adapters.bank import Bank
from mtjax.adapters.bind import bind, find_sites, init_adapters, trainable_labels
from mtjax.adapters.merging import merge, unmerge
from mtjax.adapters.method import Method
from mtjax.adapters.operations import average, concat_rank, materialise, select, stack, svd_truncate
from mtjax.adapters.sites import Site, Where, input, kv, output, span, tokens, wrap
from mtjax.adapters.spec import METHODS, Rule, Spec

# Routers of banks with an inventory
from mtjax.adapters.poly import Poly, Uniform

# Low-rank changes of dense layers
from mtjax.adapters.dora import DoRA
from mtjax.adapters.lora import LoRA, RsLoRA
from mtjax.adapters.lora_moe import LoRAMoE
from mtjax.adapters.pissa import PiSSA
from mtjax.adapters.vera import VeRA

# LoRAs of tasks at the ends of a trunk's stages
from mtjax.adapters.mtlora import bind_streams, mtlora_rules

# Scales, shifts, biases, norms
from mtjax.adapters.bitfit import BitFit
from mtjax.adapters.ia3 import IA3, ia3_rules
from mtjax.adapters.ln_tuning import LnTuning
from mtjax.adapters.ssf import SSF

# Bottlenecks
from mtjax.adapters.compacter import Compacter
from mtjax.adapters.conv_adapter import ConvAdapter
from mtjax.adapters.houlsby import Houlsby
from mtjax.adapters.normed_bottleneck import NormedBottleneck
from mtjax.adapters.parallel import Parallel, ScaledParallel
from mtjax.adapters.pfeiffer import Pfeiffer

# Compositions of trained adapters
from mtjax.adapters.adapter_fusion import AdapterFusion
from mtjax.adapters.scalearn import ScaLearn, with_sources

# Vectors in front: of keys and values, of tokens
from mtjax.adapters.mam import mam
from mtjax.adapters.prefix import Prefix
from mtjax.adapters.prompt import Prompt

__all__ = [
  'AdapterFusion', 'Bank', 'BitFit', 'Compacter', 'ConvAdapter', 'DoRA', 'Houlsby', 'IA3', 'LnTuning', 'LoRA',
  'LoRAMoE', 'METHODS', 'Method', 'NormedBottleneck', 'Parallel', 'Pfeiffer', 'PiSSA', 'Poly', 'Prefix', 'Prompt',
  'RsLoRA', 'Rule', 'SSF', 'ScaLearn', 'ScaledParallel', 'Site', 'Spec', 'Uniform', 'VeRA', 'Where', 'average',
  'bind', 'bind_streams', 'concat_rank', 'find_sites', 'ia3_rules', 'init_adapters', 'input', 'kv', 'mam',
  'materialise', 'merge', 'mtlora_rules', 'output', 'select', 'span', 'stack', 'svd_truncate', 'tokens',
  'trainable_labels', 'unmerge', 'with_sources', 'wrap',
]
