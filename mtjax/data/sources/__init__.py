"""The data sets that mtjax builds itself: name -> 'module:class', imported when asked for (they import TFDS)."""

SOURCES = {
  # shipped with mtjax
  'mnist': 'mtjax.data.sources.mnist:Mnist',
  'multimnist': 'mtjax.data.sources.multimnist:MultiMnist',
  'sentiment': 'mtjax.data.sources.sentiment:Sentiment',
  # rendered on this machine (extra `render`); a small configuration is shipped
  'rendered_scenes': 'mtjax.data.sources.rendered_scenes:RenderedScenes',
  # pictures
  'emoji': 'mtjax.data.sources.emoji:Emoji',
  'fashion_mnist': 'mtjax.data.sources.fashion_mnist:FashionMnist',
  'multifashion': 'mtjax.data.sources.multifashion:MultiFashion',
  # sound
  'asterisk': 'mtjax.data.sources.asterisk:Asterisk',
  # tables
  'census_income': 'mtjax.data.sources.census_income:CensusIncome',
  'movielens_100k': 'mtjax.data.sources.movielens_100k:Movielens100k',
  'nafld': 'mtjax.data.sources.nafld:Nafld',
  'qm9': 'mtjax.data.sources.qm9:Qm9',
  'yeast': 'mtjax.data.sources.yeast:Yeast',
  # text
  'bbc_news': 'mtjax.data.sources.bbc_news:BbcNews',
  'bible': 'mtjax.data.sources.bible:Bible',
  'bible_pairs': 'mtjax.data.sources.bible_pairs:BiblePairs',
  'debian_index': 'mtjax.data.sources.debian_index:DebianIndex',
  'debian_topics': 'mtjax.data.sources.debian_topics:DebianTopics',
}
