"""Interop: published checkpoints and tokenizers <-> our modules and parameters. Needs the extra `hf`."""
# Hugging Face directories: config.json and safetensors.
from mtjax.interop import hf

# Text -> token ids.
from mtjax.interop.tokenizers import Tokenizer
