"""Decoding: from logits to tokens."""
# Texts, written token by token.
from mtjax.decoding.generate import Generated, generate

# What that is made of.
from mtjax.decoding.beam_search import beam_search
from mtjax.decoding.sampling import sample
from mtjax.decoding.suppression import Suppressed

# How a task's texts are written.
from mtjax.decoding.settings import Generation
