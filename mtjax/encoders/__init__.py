"""Encoders: inputs -> `Features`, shared by the tasks, knowing nothing of them."""
# Vectors, of any shape.
from mtjax.encoders.mlp import MLP

# Images.
from mtjax.encoders.lenet import LeNet
from mtjax.encoders.vit import ViT

# Text.
from mtjax.encoders.byte_transformer import ByteTransformer

# What encoders are made of.
from mtjax.encoders.layers import Attention, Mlp, TransformerBlock, as_float_image, attend
