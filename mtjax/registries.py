"""The names that a config may use, and what they stand for. Imported when looked up, so the table costs nothing."""
from mtjax.config import Registry
from mtjax.data import sources

ENCODERS = Registry('encoder', {
  'mlp': 'mtjax.encoders:MLP',
  'tabular': 'mtjax.encoders:Tabular',
  'lenet': 'mtjax.encoders:LeNet',
  'vit': 'mtjax.encoders:ViT',
  'swin': 'mtjax.encoders:Swin',
  'convnet': 'mtjax.encoders:ConvNet',
  'efficientnet_lite': 'mtjax.encoders:EfficientNetLite',
  'byte_transformer': 'mtjax.encoders:ByteTransformer',
  'bert': 'mtjax.encoders:BERT',
  'gpt2': 'mtjax.encoders:GPT2',
  'llama': 'mtjax.encoders:Llama',
  'ast': 'mtjax.encoders:AST',
  't5': 'mtjax.encoders:T5',
  'whisper': 'mtjax.encoders:Whisper',
  'mamba': 'mtjax.encoders:Mamba',
  'mamba2': 'mtjax.encoders:Mamba2',
  'hf': 'mtjax.interop.hf:load',
})
HEADS = Registry('head', {
  'classification': 'mtjax.heads:Classification',
  'linear': 'mtjax.heads:Classification',
  'soft_classification': 'mtjax.heads:SoftClassification',
  'regression': 'mtjax.heads:Regression',
  'multilabel': 'mtjax.heads:MultiLabel',
  'rotated': 'mtjax.heads:Rotated',
  'ordinal': 'mtjax.heads:Ordinal',
  'token_classification': 'mtjax.heads:TokenClassification',
  'span': 'mtjax.heads:Span',
  'language_model': 'mtjax.heads:LanguageModel',
  'segmentation': 'mtjax.heads:Segmentation',
  'depth': 'mtjax.heads:Depth',
  'normals': 'mtjax.heads:Normals',
  'edges': 'mtjax.heads:Edges',
  'saliency': 'mtjax.heads:Saliency',
  'multi_scale': 'mtjax.heads:MultiScale',
  'contrastive': 'mtjax.heads:Contrastive',
  'retrieval': 'mtjax.heads:Retrieval',
  'survival': 'mtjax.heads:Survival',
})
LOSSES = Registry('loss', {name: f'mtjax.losses:{name}' for name in (
  'softmax_xent', 'soft_xent', 'sigmoid_xent', 'mse', 'mae', 'huber', 'ordinal_nll', 'position_xent', 'next_token_xent',
  'depth_l1', 'normal_cosine', 'edge_xent', 'balanced_xent', 'info_nce', 'sup_con', 'hazard_nll')})
METRICS = Registry('metric', {name: f'mtjax.metrics:{name}' for name in (
  'accuracy', 'macro_f1', 'balanced_accuracy', 'log_loss', 'normalised_entropy', 'kappa', 'linear_kappa',
  'quadratic_kappa', 'mcc', 'ece', 'mce', 'adaptive_ece', 'classwise_ece', 'reliability', 'brier', 'acc', 'acc_norm',
  'acc_mutual_info', 'auc', 'average_precision', 'gauc', 'ndcg', 'hit_rate', 'recall_at_k', 'precision_at_k', 'mrr',
  'map_at_k', 'mse', 'mae', 'rmse', 'r2', 'pearson', 'spearman', 'concordance_index', 'miou', 'pixel_accuracy',
  'depth_abs', 'depth_rel', 'depth_rmse', 'depth_delta', 'mean_angle', 'median_angle', 'angle_within', 'ods_f',
  'boundary_f', 'exact_match', 'token_f1', 'wer', 'rouge1', 'rouge2', 'rouge_l', 'bleu', 'chrf', 'ter')})
FORMATS = Registry('format', {'bytes': 'mtjax.data.formats:Bytes', 'hashed_words': 'mtjax.data.formats:HashedWords',
                               'tokens': 'mtjax.interop.tokenizers:Tokens'})
SOURCES = Registry('data set', sources.SOURCES)
