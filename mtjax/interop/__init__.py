"""Interop: published checkpoints and tokenizers <-> our modules and parameters. Needs the extra `hf`."""
# Hugging Face directories (config.json and safetensors); Llama's kin in a GGUF file; Whisper in one of CTranslate2.
from mtjax.interop import ctranslate2, gguf, hf

# Text -> token ids.
from mtjax.interop.tokenizers import Tokenizer
