"""Encoders: inputs -> `Features`, shared by the tasks, knowing nothing of them."""
# Vectors, of any shape.
from mtjax.encoders.mlp import MLP

# Tables of categories and numbers.
from mtjax.encoders.tabular import Tabular

# Images.
from mtjax.encoders.convnet import ConvNet
from mtjax.encoders.efficientnet_lite import EfficientNetLite
from mtjax.encoders.lenet import LeNet
from mtjax.encoders.swin import Swin
from mtjax.encoders.vit import ViT

# Text.
from mtjax.encoders.bert import BERT
from mtjax.encoders.byte_transformer import ByteTransformer

# Text, with logits of the next token and a cache.
from mtjax.encoders.gpt2 import GPT2
from mtjax.encoders.llama import Llama

# Sound.
from mtjax.encoders.ast import AST

# Encoder-decoders: a text, or speech -> a text.
from mtjax.encoders.t5 import T5
from mtjax.encoders.whisper import Whisper

# Text and other sequences, in time linear in their length.
from mtjax.encoders.mamba import Mamba
from mtjax.encoders.mamba2 import Mamba2

# What encoders are made of.
from mtjax.encoders.attention import attend
from mtjax.encoders.cache import Cache
from mtjax.encoders.layers import Attention, GatedMlp, Mlp, TransformerBlock, as_float_image
from mtjax.encoders.memory_attention import MemoryAttention, MemoryCache
from mtjax.encoders.stacked import stack_blocks, unstack_blocks
