"""Formats of sound: resampling, and the spectrograms of the functions behind them."""
import doctest

import numpy as np
import pytest

from mtjax import experiment
from mtjax.data import filter_bank, log_mel, waveforms
from mtjax.data.waveforms import AstSpectrogram, WhisperSpectrogram, resample


def tone(rate, seconds=0.5, frequency=440.0):
  return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def test_a_tone_is_the_same_tone_at_another_rate():
  inner = slice(400, -400)                        # the filter sees nothing beyond the ends
  np.testing.assert_array_equal(resample(tone(16000), 16000), tone(16000))
  for rate in (8000, 22050, 48000):
    got = resample(tone(rate), rate)
    assert len(got) == 8000
    np.testing.assert_allclose(got[inner], tone(16000)[inner], atol=2e-3)     # the ripple of its window
  integers = np.round(tone(8000) * 2**15).astype(np.int16)
  np.testing.assert_allclose(resample(integers, 8000), resample(tone(8000), 8000), atol=2**-15)   # rounding to 16 bits


def test_rows_of_any_length_become_the_spectrograms_of_each():
  rows = np.empty(2, object)
  rows[:] = [tone(16000, 0.3), tone(16000, 0.1, 1000.0)]
  got = WhisperSpectrogram('x', seconds=0.25, mels=20)({'x': rows})
  assert got.shape == (2, 25, 20) and got.dtype == np.float32
  np.testing.assert_array_equal(got[1], log_mel.whisper_spectrogram(rows[1], seconds=0.25, mels=20))
  got = AstSpectrogram('x', frames=24, mels=16, mean=-3.0, std=2.0)({'x': rows})
  np.testing.assert_array_equal(got[0], filter_bank.ast_spectrogram(rows[0], frames=24, mels=16, mean=-3.0, std=2.0))


def test_by_name_in_configs():
  found = experiment.FORMATS.build(dict(name='whisper_spectrogram', column='audio', sample_rate=8000, seconds=1.0), 'f')
  assert found == WhisperSpectrogram('audio', 8000, seconds=1.0) and found.columns == ('audio',)
  assert experiment.FORMATS.build(dict(name='ast_spectrogram', column='audio'), 'f') == AstSpectrogram('audio')
  assert AstSpectrogram('audio').mels == 128 and WhisperSpectrogram('audio').mels == 80


@pytest.mark.parametrize('how, words', [(dict(sample_rate=0), 'sample_rate=0'), (dict(mels=2.5), 'mels=2.5')])
def test_errors(how, words):
  with pytest.raises(ValueError, match=f'WhisperSpectrogram has {words}; allowed is an integer >= 1'):
    WhisperSpectrogram('x', **how)


def test_examples():
  failed, tried = doctest.testmod(waveforms, extraglobs={'np': np})
  assert tried and not failed
