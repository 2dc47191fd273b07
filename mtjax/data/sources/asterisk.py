"""Spoken prompts of a telephone exchange in five languages, with their transcripts (fetched)."""
import gzip
import pathlib
import re
import unicodedata
import wave
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

LANGUAGES = ('en', 'es', 'fr', 'it', 'ru')
SAMPLE_RATE = 8000
SHORT = 3.0  # seconds
_NOTE = r'(?:\[[^\]]*\]|\([^)]*\)|<[^>]*>)'
_AT_THE_ENDS = re.compile(rf'^(?:\s*{_NOTE})+|(?:{_NOTE}[\s.]*)+$')


def spoken(text: str) -> str:
  """What is said: a transcript without the notes at its ends; '' where nothing is left, or a note stands inside.

  Example:
    >>> spoken('dash [-]'), spoken('[sound of monkeys screaming]'), spoken('Your [first] call')
    ('dash', '', '')
  """
  text = ' '.join(_AT_THE_ENDS.sub('', text).split())
  return '' if re.search(r'[\[\](){}<>]', text) or not any(map(str.isalnum, text)) else text


def read_transcripts(path: pathlib.Path) -> dict[str, str]:
  """{prompt: what is said} of the lines 'prompt: text'; those of which no speech is known are left out."""
  with gzip.open(path, 'rt', encoding='utf-8-sig') as file:
    pairs = [line.split(':', 1) for line in file if ':' in line and not line.startswith(';')]
  texts = {name.strip(): spoken(text) for name, text in pairs}
  return {name: text for name, text in texts.items() if text}


def read_waveform(path: pathlib.Path) -> np.ndarray:
  """int16 [N] of a recording of 8,000 samples a second; raises ValueError for another kind."""
  with wave.open(str(path)) as file:
    kind = (file.getframerate(), file.getsampwidth(), file.getnchannels())
    if kind != (SAMPLE_RATE, 2, 1):
      raise ValueError(f'{path} has (rate, bytes, channels) = {kind}; expected is {(SAMPLE_RATE, 2, 1)}.')
    return np.frombuffer(file.readframes(file.getnframes()), '<i2').astype(np.int16)


def same_sentences(texts: Mapping[tuple[str, str], str]) -> dict[str, str]:
  """{prompt: a prompt that stands for all that must share its split}.

  Args:
    texts: {(language, prompt): text}; prompts that say the same in one of the languages (but for case, accents and
      punctuation) belong together, and so do those that are linked by others.

  Example:
    >>> same_sentences({('en', 'a'): 'Hours.', ('en', 'b'): 'hours', ('it', 'b'): 'ore', ('it', 'c'): 'Ore'})
    {'a': 'a', 'b': 'a', 'c': 'a'}
  """
  parent = {prompt: prompt for _, prompt in texts}

  def root(prompt):
    while parent[prompt] != prompt:
      prompt = parent[prompt]
    return prompt

  first: dict[tuple[str, str], str] = {}
  for (language, prompt), text in texts.items():
    other = first.setdefault((language, _letters(text)), prompt)
    parent[max(root(prompt), root(other))] = min(root(prompt), root(other))
  return {prompt: root(prompt) for prompt in parent}


class Asterisk(base.Source):
  """Prompts of a telephone exchange, each read in up to five languages. `all` of them, or `short`: at most 3 seconds.

  Columns: `id`, e.g. 'it/vm-goodbye'; `audio` int16 [N], 8,000 samples a second; `seconds`; `transcript`; `language`
  (en, es, fr, it, ru); `prompt`, a number that recordings of one prompt share in all languages.
  Recordings without a transcript (silence, beeps, a few others) are not among them. The Spanish transcripts mostly lack
  their accents, and here and there a transcript is misspelt, or says less than the voice does.
  Each language has one voice of its own, so who tells the languages apart may be telling the speakers apart: what is
  measured here says nothing of other speakers.
  Splits: 70 / 10 / 20 % of the prompts, so that no sentence is in two of them in another language; prompts that say
  the same count as one. A row is in the same split in `short` as in `all`.
  """
  name = 'mt_asterisk'
  INPUTS = 'spectrogram'
  FORMAT = {'spectrogram': dict(name='whisper_spectrogram', column='audio', seconds=SHORT, sample_rate=SAMPLE_RATE)}
  CITATION = ('Asterisk core sounds 1.6.1; voices: Allison Smith (en, es), June Wallack (fr), Carlo Flora (it), '
              'ivrvoice.ru (ru).')
  LICENCE = 'CC BY-SA 3.0 (English, Spanish, French), CC BY 3.0 (Italian, Russian)'
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ('all', 'short')]

  def columns(self):
    return {'id': tfds.features.Text(), 'audio': tfds.features.Tensor(shape=(None,), dtype=np.int16),
            'seconds': np.float32, 'transcript': tfds.features.Text(),
            'language': tfds.features.ClassLabel(names=LANGUAGES), 'prompt': np.int32}

  def rows(self):
    found = dict(recordings(fetch.require('asterisk')))
    texts = {key: text for key, (_, text) in found.items()}
    group, prompts = same_sentences(texts), sorted({prompt for _, prompt in found})
    splits = base.frozen_splits([group[prompt] for _, prompt in found],
                                {'train': 0.7, 'validation': 0.1, 'test': 0.2})
    audio = [read_waveform(path) for path, _ in found.values()]
    seconds = np.array([len(x) / SAMPLE_RATE for x in audio], np.float32)
    wanted = seconds <= (SHORT if self.builder_config.name == 'short' else np.inf)
    table = {'id': ['/'.join(key) for key in found], 'audio': audio, 'seconds': seconds,
             'transcript': list(texts.values()), 'language': [language for language, _ in found],
             'prompt': np.array([prompts.index(prompt) for _, prompt in found], np.int32)}
    return table, {split: index[wanted[index]] for split, index in splits.items()}


def recordings(folder: pathlib.Path, languages: Sequence[str] = LANGUAGES,
               ) -> Iterator[tuple[tuple[str, str], tuple[pathlib.Path, str]]]:
  """((language, prompt), (its file, what is said)) of what was fetched, in alphabetical order."""
  for language in languages:
    texts = read_transcripts(folder / f'doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz')
    (voice,) = (folder / 'asterisk/sounds').glob(f'{language}_*')
    paths = {path.relative_to(voice).with_suffix('').as_posix(): path for path in voice.rglob('*.wav')}
    for prompt in sorted(texts.keys() & paths.keys()):
      yield (language, prompt), (paths[prompt], texts[prompt])


def _letters(text: str) -> str:
  """Letters and digits in lower case, without accents."""
  return ''.join(c for c in unicodedata.normalize('NFKD', text.lower()) if c.isalnum())
