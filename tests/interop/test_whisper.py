"""A published model, end to end: Whisper-base in a file of CTranslate2 writes down what is said."""
import gzip
import re
import wave

import numpy as np
import pytest
import scipy.signal

from mtjax.data import fetch, log_mel
from mtjax.decoding import generate
from mtjax.interop import Tokenizer, ctranslate2

PROMPTS = ('privacy-prompt', 'agent-pass', 'conf-onlyone')
START = '<|startoftranscript|><|en|><|transcribe|><|notimestamps|>'


def waveform(path):
  """[N] float64 at 16 kHz; the recordings have 8."""
  with wave.open(str(path)) as file:
    assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (8000, 2, 1)
    return scipy.signal.resample_poly(np.frombuffer(file.readframes(file.getnframes()), '<i2') / 2**15, 2, 1)


def words(text):
  return re.findall(r'[a-z]+', text.lower())


@pytest.mark.slow
def test_prompts_are_transcribed():
  try:
    model, prompts = fetch.require('whisper_base'), fetch.require('asterisk_en')
  except FileNotFoundError as error:
    pytest.skip(str(error))
  with gzip.open(prompts / 'doc/asterisk-core-sounds-en/core-sounds-en.txt.gz', 'rt') as file:
    lines = dict(line.strip().split(': ', 1) for line in file if ': ' in line and not line.startswith(';'))
  folder = prompts / 'asterisk/sounds/en_US_f_Allison'
  spectrograms = np.stack([log_mel.whisper_spectrogram(waveform(folder / f'{name}.wav')) for name in PROMPTS])
  module, params = ctranslate2.load(model)
  tokenizer = Tokenizer(model, pad_id=module.pad_id)
  start = tokenizer([START], special=False)[0][0]
  made = generate(module, params, spectrograms, decoder_prompts=start, max_new_tokens=24, stop_tokens=module.pad_id)
  for name, text in zip(PROMPTS, tokenizer.decode(made.tokens)):
    assert words(text) == words(lines[name]), name
