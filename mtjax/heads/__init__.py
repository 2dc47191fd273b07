"""Heads: `Features` -> one task's outputs."""
# What a head of your own derives from.
from mtjax.heads._base import Head

# One vector a row (features.pooled).
from mtjax.heads.classification import Classification, SoftClassification
from mtjax.heads.multilabel import MultiLabel
from mtjax.heads.ordinal import Ordinal
from mtjax.heads.regression import Regression
from mtjax.heads.retrieval import Retrieval
from mtjax.heads.survival import Survival

# The rows of a batch against each other (features.pooled).
from mtjax.heads.contrastive import Contrastive

# One vector a token (features.tokens).
from mtjax.heads.language_model import LanguageModel
from mtjax.heads.span import Span, best_span
from mtjax.heads.token_classification import TokenClassification

# Maps (features.maps): something at every pixel, and a pyramid before it.
from mtjax.heads.dense import Depth, Edges, Normals, Saliency, Segmentation
from mtjax.heads.multi_scale import MultiScale

# A head behind a rotation of its features.
from mtjax.heads.rotation import Rotated, with_rotation_gradients
