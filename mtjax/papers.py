"""The 81 papers of the scope: where each one is in mtjax, and how far its claim has been studied.

`python -m mtjax.papers` writes the table into the README, between its `papers` markers, and between `methods` markers
the table of what makes one update of many tasks, read from the first lines of the files of `mtjax/optim`.
"""
import ast
import dataclasses
import pathlib
import re
import sys

STATUSES = ('reproduced', 'not_reproduced', 'implemented', 'planned')


@dataclasses.dataclass(frozen=True)
class Paper:
  """One paper.

  Attributes:
    key: its short name here.
    title: as published.
    card: file and section of its method card.
    brief: what it adds, in a few words.
    module: where it is implemented, 'mtjax/…'; None while planned.
    study: the program that tests its claim, 'experiments/studies/…'; None where there is none.
    status: 'reproduced' or 'not_reproduced' (its study has a verdict), 'implemented', or 'planned'.
  """

  key: str
  title: str
  card: str
  brief: str
  module: str | None = None
  study: str | None = None
  status: str = 'planned'

  def __post_init__(self):
    if self.status not in STATUSES:
      raise ValueError(f'Paper {self.key!r}: status must be one of {STATUSES}, got {self.status!r}.')
    if (self.module is None) != (self.status == 'planned'):
      raise ValueError(f'Paper {self.key!r} is {self.status}, but its module is {self.module!r}.')
    if self.study is None and self.status.endswith('reproduced'):
      raise ValueError(f'Paper {self.key!r} is {self.status}, but names no study.')


PAPERS: dict[str, Paper] = {paper.key: paper for paper in (
  Paper('bloomz', 'Crosslingual Generalization through Multitask Finetuning',
        'lm B1', 'prompted mixture across languages; zero-shot held-out language'),
  Paper('fm3', 'Few-shot Multimodal Multitask Multilingual Learning',
        'peft 13', 'contrastive fine-tuning + task hypernetwork + heads'),
  Paper('mftcoder', 'MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning',
        'optim, lm B2', '4 task-loss modes, CoBa, packing', 'mtjax/losses/mftcoder.py', status='implemented'),
  Paper('mhr', 'Multi-Head Adapter Routing for Cross-Task Generalization',
        'peft 1', 'routed adapter inventory, MHR-z, MHR-μ', 'mtjax/adapters/poly.py',
        status='implemented'),
  Paper('ehrmamba', 'EHRMamba: Towards Generalizable and Scalable Foundation Models for Electronic Health Records',
        'arch 13', 'Mamba on EHR sequences, multitask prompted fine-tuning'),
  Paper('ftl', 'Improving Multi-task Learning via Seeking Task-based Flat Regions',
        'optim', 'SAM split per task + any aggregator', 'mtjax/optim/sharpness/ftl.py',
        'experiments/studies/flatness.py', 'not_reproduced'),
  Paper('dynamic_logits_fusion', "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion",
        'merge A9', 'decoding-time weights by KL search'),
  Paper('breadcrumbs', 'Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks',
        'merge A1', 'two-sided sparse masks'),
  Paper('m3vit', 'M^3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with '
                 'Model-Accelerator Co-design',
        'arch 1', 'task-gated MoE ViT, single-task export'),
  Paper('anytasktune', 'AnyTaskTune: Advanced Domain-Specific Solutions through Task-Fine-Tuning',
        'lm B3', 'task-fine-tune pipeline'),
  Paper('task_preference_optimization', 'Task Preference Optimization: Improving Multimodal Large Language Models '
                                        'with Vision Task Alignment',
        'arch 11', 'task tokens + heads on an MLLM'),
  Paper('mtlora', 'MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning',
        'peft 2', 'task-agnostic + task-specific LoRA', 'mtjax/adapters/mtlora.py',
        status='implemented'),
  Paper('s3ft', 'Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models',
        'lm B4', 'selective self-to-supervised'),
  Paper('ecmt', 'Efficient Controllable Multi-Task Architectures',
        'arch 6', 'slimmable encoder/decoders, CI-KD, search'),
  Paper('scalearn', 'ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale',
        'peft 3', 'scaling source adapters', 'mtjax/adapters/scalearn.py',
        status='implemented'),
  Paper('polyhistor', 'Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks',
        'peft 4', 'decomposed hypernetworks + scaling kernels', 'mtjax/hypernets/polyhistor.py',
        status='implemented'),
  Paper('dual_stage_mixed_finetuning', 'How Abilities in Large Language Models are Affected by Supervised '
                                       'Fine-tuning Data Composition',
        'lm B5', 'dual-stage mixed fine-tuning'),
  Paper('mvlpt', 'Multitask Vision-Language Prompt Tuning', 'peft 11', 'shared prompts, transferability matrix'),
  Paper('mtl_lifecycle_survey', 'Challenges and Opportunities of Using Transformer-Based Multi-Task Learning in NLP '
                                'Through ML Lifecycle: A Survey',
        'eval', 'lifecycle: data, model, deploy, monitor; MTL+CL'),
  Paper('jiuzhang2', 'JiuZhang 2.0: A Unified Chinese Pre-trained Language Model for Multi-task Mathematical Problem '
                     'Solving',
        'arch 4', 'MoE, multi-task continual pre-training, refinement'),
  Paper('skill_localization', 'Task-Specific Skill Localization in Fine-tuned Language Models',
        'merge A5', '0.01% grafts, overlap as task similarity'),
  Paper('med_mat', 'On the Compositional Generalization of Multimodal LLMs for Medical Imaging',
        'eval', 'factor grid, held-out compositions', 'mtjax/studies/factor_splits.py',
        'experiments/studies/compositional_generalisation.py', 'not_reproduced'),
  Paper('emma', 'Evaluation and Mitigation of Agnosia in Multimodal Large Language Models',
        'eval', 'fine-grained probes + mitigation'),
  Paper('got_d', 'Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs',
        'lm B6', 'optimal-transport gradients'),
  Paper('instruction_tuned_quick_learners', 'Instruction Tuned Models are Quick Learners',
        'lm B7', 'sample-efficiency curves'),
  Paper('conjugate_prompting', 'Understanding Catastrophic Forgetting in Language Models via Implicit Inference',
        'merge A11', 'implicit inference, synthetic ICL'),
  Paper('hft', 'HFT: Half Fine-Tuning for Large Language Models', 'merge A7', 'half the parameters a round'),
  Paper('opt_iml', 'OPT-IML: Scaling Language Model Instruction Meta Learning through the Lens of Generalization',
        'lm B8', 'three generalisation levels'),
  Paper('adaptive_pattern_extraction', 'Adaptive Pattern Extraction Multi-Task Learning for Multi-Step Conversion '
                                       'Estimations',
        'rec', 'group transformer + pattern selector'),
  Paper('lt_sft', 'Composable Sparse Fine-Tuning for Cross-Lingual Transfer', 'merge A6', 'LT-SFT masks, composed'),
  Paper('ast_adapters', 'Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers',
        'peft 7', 'adapters on audio spectrogram transformer', 'mtjax/adapters/conv_adapter.py',
        status='implemented'),
  Paper('heterogeneous_moe_vit', 'An Efficient General-Purpose Modular Vision Model via Multi-Task Heterogeneous '
                                 'Training',
        'arch 3', 'MoE ViT + mutual information, pruning, extension'),
  Paper('unified_view_peft', 'Towards a Unified View of Parameter-Efficient Transfer Learning',
        'peft 6', 'design space, MAM adapter', 'mtjax/adapters/mam.py',
        status='implemented'),
  Paper('mmfactory', 'MMFactory: A Universal Solution Search Engine for Vision-Language Tasks',
        'eval', 'solution search under constraints'),
  Paper('multimodn', 'MultiModN- Multimodal, Multi-Task, Interpretable Modular Networks',
        'arch 10', 'sequential fusion, MNAR robustness'),
  Paper('tl_training', 'TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use',
        'lm B12', 'token weights, PPO reward by error type'),
  Paper('mbart50', 'Multilingual Translation with Extensible Multilingual Pretraining and Finetuning',
        'lm B10', 'multilingual fine-tuning, temperature sampling'),
  Paper('emulated_finetuning', 'An Emulator for Fine-Tuning Large Language Models using Small Language Models',
        'merge A10', 'logit arithmetic across scales'),
  Paper('multicritique', 'Training Language Models to Critique With Multi-agent Feedback',
        'lm B14', 'critique SFT + preference'),
  Paper('adamerging', 'AdaMerging: Adaptive Model Merging for Multi-Task Learning',
        'merge A3', 'entropy-minimised coefficients'),
  Paper('vl_adapter', 'VL-Adapter: Parameter-Efficient Transfer Learning for Vision-and-Language Tasks',
        'peft 5', 'Adapter/Hyperformer/Compacter, weight sharing', 'mtjax/adapters/bank.py',
        status='implemented'),
  Paper('cofitune', 'Balancing Speciality and Versatility: a Coarse to Fine Framework for Supervised Fine-tuning '
                    'Large Language Model',
        'merge A8', 'module search + soft mask'),
  Paper('rlhf_generalisation_diversity', 'Understanding the Effects of RLHF on LLM Generalisation and Diversity',
        'lm B20', 'SFT/RM/PPO/BoN, OOD and diversity metrics'),
  Paper('moextend', 'MoExtend: Tuning New Experts for Modality and Task Extension',
        'arch 5', 'new experts, calibrated router'),
  Paper('taskexpert', 'TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial Mixture-of-Experts',
        'arch 2', 'memorial mixture of experts'),
  Paper('in_boxbart', 'In-BoXBART: Get Instructions into Biomedical Multi-Task Learning',
        'lm B9', 'instructions in a domain suite'),
  Paper('math_finetuning', 'Improving Large Language Model Fine-tuning for Solving Math Problems',
        'lm B13', 're-ranking, sequential multi-task'),
  Paper('robofume', 'Robot Fine-Tuning Made Easy: Pre-Training Rewards and Policies for Autonomous Real-World '
                    'Reinforcement Learning',
        'rl', 'calibrated offline RL → online, learned reward'),
  Paper('mj_bench', 'MJ-Bench: Is Your Multimodal Reward Model Really a Good Judge for Text-to-Image Generation?',
        'eval', 'judge of judges: preference, bias'),
  Paper('l2m', 'Learning to Modulate pre-trained Models in RL', 'peft 10, rl', 'modulation pool on a frozen policy',
        'mtjax/adapters/l2m.py', status='implemented'),
  Paper('hemm', 'HEMM: Holistic Evaluation of Multimodal Foundation Models',
        'eval', 'skills × information flow × use case'),
  Paper('adaptive_mt', 'Fine-tuning Large Language Models for Adaptive Machine Translation',
        'lm B15', 'zero/one-shot fuzzy-match prompts'),
  Paper('pcb', 'Parameter Competition Balancing for Model Merging', 'merge A4', 'intra/inter balancing'),
  Paper('visual_instruction_survey', 'Visual Instruction Tuning towards General-Purpose Multimodal Model: A Survey',
        'eval', 'taxonomy as task tags + report'),
  Paper('aligngpt', 'AlignGPT: Multi-modal Large Language Models with Adaptive Alignment Capability',
        'arch 12', 'alignment levels, adaptive mix'),
  Paper('multimae', 'MultiMAE: Multi-modal Multi-task Masked Autoencoders', 'arch 7', 'multimodal masked pre-training'),
  Paper('finetunebench', 'FineTuneBench: How well do commercial fine-tuning APIs infuse knowledge into LLMs?',
        'lm B26, eval', 'knowledge infusion and update'),
  Paper('four_m_21', '4M-21: An Any-to-Any Vision Model for Tens of Tasks and Modalities',
        'arch 8', 'any-to-any over tokenised modalities'),
  Paper('dont_stop_pretraining', "Don't Stop Pretraining? Make Prompt-based Fine-tuning Powerful Learner",
        'lm B18', 'prompt-based continued pre-training'),
  Paper('dpo_variants', 'Insights into Alignment: Evaluating DPO and its Variants Across Multiple Tasks',
        'lm B21, A6', 'DPO/IPO/KTO/CPO with, without SFT'),
  Paper('m2ixt', 'Lightweight In-Context Tuning for Multimodal Unified Models', 'peft 14', 'in-context tuning module'),
  Paper('uni_perceiver_v2', 'Uni-Perceiver v2: A Generalist Model for Large-Scale Vision and Vision-Language Tasks',
        'arch 9, optim', 'unified likelihood, unmixed sampling optimizer'),
  Paper('dtrn', 'Deep Task-specific Bottom Representation Network for Multi-Task Recommendation',
        'rec', 'hypernetwork bottom + SENet per task'),
  Paper('gpt3', 'Language Models are Few-Shot Learners', 'lm B23', 'in-context evaluation protocol'),
  Paper('loramoe', 'LoRAMoE: Revolutionizing Mixture of Experts for Maintaining World Knowledge in Language Model '
                   'Alignment',
        'peft 12', 'localised balancing of LoRA experts', 'mtjax/adapters/lora_moe.py',
        status='implemented'),
  Paper('ssf', 'Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning',
        'peft 8', 'scale and shift, merged', 'mtjax/adapters/ssf.py',
        status='implemented'),
  Paper('mllm_msr', 'Harnessing Multimodal Large Language Models for Multimodal Sequential Recommendation',
        'rec', 'recurrent preference summaries'),
  Paper('swift', 'SWIFT:A Scalable lightWeight Infrastructure for Fine-Tuning',
        'lm B24', 'one-stop tune/infer/eval/quantise'),
  Paper('autopeft', 'AutoPEFT: Automatic Configuration Search for Parameter-Efficient Fine-Tuning',
        'peft 9', 'multi-objective search'),
  Paper('mental_llm', 'Mental-LLM: Leveraging Large Language Models for Mental Health Prediction via Online Text Data',
        'lm B16, eval', 'instruction tuning of several tasks, balanced accuracy'),
  Paper('dawn_of_lmms', 'The Dawn of LMMs: Preliminary Explorations with GPT-4V(ision)',
        'eval', 'sample galleries, visual prompts'),
  Paper('vision_flan', 'Vision-Flan: Scaling Human-Labeled Tasks in Visual Instruction Tuning',
        'lm B19', 'two-stage instruction tuning'),
  Paper('m2trec', 'M2TRec: Metadata-aware Multi-task Transformer for Large-scale and Cold-start free Session-based '
                  'Recommendations',
        'rec', 'item-ID-free sessions, category heads'),
  Paper('multi_branch_reasoning', 'Enhancing the General Agent Capabilities of Low-Parameter LLMs through Tuning and '
                                  'Multi-Branch Reasoning',
        'lm B17', 'agent data + multi-branch reasoning'),
  Paper('unisim', 'Towards Unified Benchmark and Models for Multi-Modal Perceptual Metrics',
        'eval', 'unified perceptual similarity tasks'),
  Paper('haloquest', 'HaloQuest: A Visual Hallucination Dataset for Advancing Multimodal Reasoning',
        'eval', 'false premise, insufficient context'),
  Paper('cot_faithfulness', 'On the Impact of Fine-Tuning on Chain-of-Thought Reasoning',
        'eval', 'early answering, paraphrase, filler'),
  Paper('adaptagent', 'AdaptAgent: Adapting Multimodal Web Agents with Few-Shot Learning from Human Demonstrations',
        'lm B25', 'meta-adaptation from demonstrations'),
  Paper('ties', 'Resolving Interference When Merging Models', 'merge A2', 'trim, elect, merge'),
  Paper('ul2', 'UL2: Unifying Language Learning Paradigms', 'lm B11', 'mixture of denoisers, mode switching'),
  Paper('asft', 'ASFT: Aligned Supervised Fine-Tuning through Absolute Likelihood', 'lm B22', 'absolute likelihood'),
)}


def table() -> str:
  """The papers as a Markdown table."""
  lines = ['| # | paper | in short | in mtjax | status |', '|---|---|---|---|---|']
  for number, paper in enumerate(PAPERS.values(), 1):
    places = ', '.join(f'[`{place}`]({place})' for place in (paper.module, paper.study) if place)
    lines.append(f'| {number} | {paper.title} | {paper.brief} | {places} | {paper.status.replace("_", " ")} |')
  return '\n'.join(lines)


def methods() -> str:
  """The files of `mtjax/optim` as a Markdown table: method, what it is, paper, tests."""
  root = pathlib.Path(__file__).resolve().parents[1]
  lines = ['| method | what it is | paper | in mtjax |', '|---|---|---|---|']
  for kind in ('aggregators', 'weightings', 'sharpness', ''):
    for path in sorted((root / 'mtjax' / 'optim' / kind).glob('*.py')):
      if path.name.startswith('_') or not kind and path.name != 'tbgn.py':
        continue
      text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
      name, _, what = text.splitlines()[0].partition(': ')
      link = re.search(r'https://[^\s,;)]+', text).group().rstrip('.')
      label = f'arXiv {link.rsplit("/", 1)[-1]}' if 'arxiv.org' in link else 'paper'
      place = path.relative_to(root).as_posix()
      lines.append(f'| `{path.stem}` | {(what or name).rstrip(".")} | [{label}]({link}) | [`{path.name}`]({place}) |')
  return '\n'.join(lines)


def update(readme: str) -> str:
  """The text of the README with the tables between their markers."""
  for name, make in (('papers', table), ('methods', methods)):
    start, stop = f'<!-- {name} -->\n', f'<!-- /{name} -->'
    if start not in readme or stop not in readme:
      raise ValueError(f'The README lacks the markers {start.strip()} and {stop}.')
    before, _, rest = readme.partition(start)
    readme = before + start + make() + '\n' + stop + rest.partition(stop)[2]
  return readme


def main() -> None:
  """Writes the tables into the README of the current folder."""
  path = pathlib.Path('README.md')
  path.write_text(update(path.read_text(encoding='utf-8')), encoding='utf-8')
  print(f'{len(PAPERS)} papers written to {path}.', file=sys.stderr)


if __name__ == '__main__':
  main()
