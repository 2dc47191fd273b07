"""Spoken prompts: what counts as said, splits that no sentence straddles, columns, short ones; on recordings made here."""
import doctest
import gzip
import wave

import numpy as np
import pytest

from mtjax.data.sources import asterisk, base

NAMES = [f'p{i}' for i in range(20)]


def write_wave(path, samples, rate=8000):
  path.parent.mkdir(parents=True, exist_ok=True)
  with wave.open(str(path), 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes(np.asarray(samples, '<i2').tobytes())


def samples(language, prompt):
  """Its number in every sample; every fifth prompt is longer than 3 seconds."""
  number = int(prompt[1:])
  return np.full(24_400 if number % 5 == 0 else 400 + number, 100 * asterisk.LANGUAGES.index(language) + number)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Five languages, twenty prompts; 'p0' is silence, 'p1' and 'p2' say the same in Italian, Russian lacks p3's text."""
  folder = tmp_path_factory.mktemp('raw') / 'asterisk'
  for language in asterisk.LANGUAGES:
    texts = {name: f'{language} says {name}.' for name in NAMES}
    texts |= {'p0': '(1 second of silence)', 'p4': f'{language} four [4]'}
    if language == 'it':
      texts |= {'p1': 'È lo stesso.', 'p2': 'e lo stesso'}
    if language == 'ru':
      del texts['p3']
    for name in NAMES:
      write_wave(folder / f'asterisk/sounds/{language}_XX_voice/{name}.wav', samples(language, name))
    path = folder / f'doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz'
    path.parent.mkdir(parents=True)
    lines = ['; Core Asterisk Sounds', '', *(f'{name}: {text}' for name, text in texts.items()), 'p99: has no sound']
    path.write_bytes(gzip.compress('\n'.join(lines).encode('utf-8-sig' if language == 'it' else 'utf-8')))
  return folder


@pytest.fixture(scope='module')
def rows(folder, tmp_path_factory):
  """{config: {split: {column: values}}}."""
  found = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(asterisk.fetch, 'require', lambda name: folder)
    for config in ('all', 'short'):
      builder = asterisk.Asterisk(config=config, data_dir=tmp_path_factory.mktemp(config))
      builder.download_and_prepare()
      found[config] = {}
      for split in ('train', 'validation', 'test'):
        examples = list(builder.as_data_source(split=split))
        found[config][split] = {column: [example[column] for example in examples] for column in examples[0]}
  return found


def test_what_counts_as_said():
  assert asterisk.spoken('  Please  wait. ') == 'Please wait.'
  assert asterisk.spoken('[!] punto') == 'punto' and asterisk.spoken('IAX (does not say "2")') == 'IAX'
  assert asterisk.spoken('muted. (You are now muted.)') == 'muted.'
  for nothing in ('', '[tones]', '(1 second of silence)', '<beep>', 'your [temporary] greeting', '...'):
    assert asterisk.spoken(nothing) == ''
  failed, tried = doctest.testmod(asterisk)
  assert tried and not failed


def test_prompts_that_say_the_same_belong_together_through_others():
  texts = {('en', 'a'): 'One', ('en', 'b'): 'one!', ('fr', 'b'): 'été', ('fr', 'c'): 'Ete', ('fr', 'd'): 'un'}
  assert asterisk.same_sentences(texts) == {'a': 'a', 'b': 'a', 'c': 'a', 'd': 'd'}
  assert asterisk.same_sentences({('en', 'a'): 'on', ('fr', 'b'): 'on'}) == {'a': 'a', 'b': 'b'}  # of two languages


def test_every_recording_with_a_text_is_there_once(rows):
  everything = [i for split in rows['all'].values() for i in split['id']]
  assert len(everything) == len(set(everything)) == 5 * 19 - 1                    # no silence, one text is missing
  for split in rows['all'].values():
    for i, audio, seconds, text, language, prompt in zip(*(split[name] for name in (
        'id', 'audio', 'seconds', 'transcript', 'language', 'prompt'))):
      code, name = i.decode().split('/')
      assert asterisk.LANGUAGES[language] == code
      assert audio.dtype == np.int16 and audio.tolist() == samples(code, name).tolist()
      assert seconds == pytest.approx(len(audio) / 8000)
      assert prompt == sorted(NAMES[1:]).index(name)
      if name == 'p4':
        assert text.decode() == f'{code} four'


def test_no_sentence_is_in_two_splits(rows):
  prompts = [{i.decode().split('/')[1] for i in split['id']} for split in rows['all'].values()]
  assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
  assert sum({'p1', 'p2'} <= names for names in prompts) == 1                     # they say the same in Italian


def test_short_ones_keep_their_splits(rows):
  for split, columns in rows['short'].items():
    wanted = [i for i, s in zip(rows['all'][split]['id'], rows['all'][split]['seconds']) if s <= 3]
    assert columns['id'] == wanted
  assert sum(len(columns['id']) for columns in rows['short'].values()) == 5 * 16 - 1      # p5, p10 and p15 are long


def test_recordings_of_another_kind_are_refused(tmp_path):
  write_wave(tmp_path / 'a.wav', [0, 1], rate=16000)
  with pytest.raises(ValueError, match=r'\(16000, 2, 1\); expected is \(8000, 2, 1\)'):
    asterisk.read_waveform(tmp_path / 'a.wav')


def test_the_order_is_that_of_hashes(rows):
  """A frozen order: as long as it is the same, so are the splits of the real recordings."""
  assert base.checksum(np.array(rows['all']['test']['prompt'])) == '227c0d2f2179'
