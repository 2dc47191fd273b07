"""Interop: published checkpoints and tokenizers <-> our modules and parameters. Needs the extra `hf`."""
# Hugging Face directories: config.json and safetensors. GGUF: one file.
from mtjax.interop import gguf, hf

# Text -> token ids.
from mtjax.interop.tokenizers import Tokenizer
