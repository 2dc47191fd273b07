"""Interop: published checkpoints and tokenizers <-> our modules and parameters. Needs the extra `hf`."""
# Hugging Face directories (config.json and safetensors); Llama's kin in a GGUF file; Whisper in one of CTranslate2.
from mtjax.interop import ctranslate2, gguf, hf

# Adapters alone: ours, and LoRA checkpoints of PEFT.
from mtjax.interop import adapters, peft

# Text -> token ids.
from mtjax.interop.tokenizers import Tokenizer
