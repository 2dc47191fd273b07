"""Log-mel spectrograms: filters worked out by hand, frames one by one, and sounds at known frequencies."""
import cmath
import doctest
import math

import numpy as np
import pytest

from mtjax.data import filter_bank, log_mel, mel


def test_scales_at_known_frequencies():
  np.testing.assert_allclose(mel.kaldi_mel([0, 700]), [0, 1127 * math.log(2)])
  np.testing.assert_allclose(mel.slaney_mel([0, 200, 1000, 6400]), [0, 3, 15, 42])      # 15 + 27 at 6.4 kHz
  np.testing.assert_allclose(mel.slaney_hertz([3, 15, 42]), [200, 1000, 6400])


def test_filters_by_hand():
  # Two Slaney filters to 1000 Hz: corners at 0, 5, 10, 15 mels, that is 0, 333.3, 666.7, 1000 Hz; area 1, so height 0.003.
  filters = mel.slaney_filters(2, 7, 2000)                  # bins at 0, 166.7, …, 1000 Hz
  np.testing.assert_allclose(filters, 0.003 * np.array([[0, .5, 1, .5, 0, 0, 0], [0, 0, 0, .5, 1, .5, 0]]), atol=1e-12)
  # One Kaldi filter whose top is half way in mels between its ends.
  low, high = 700.0, 700 * 3.0                              # 1127 ln 2 and 1127 ln 4: the top is at 700 (2 sqrt 2 - 1) Hz
  filters = mel.kaldi_filters(1, 5, 5600, low, high)        # bins at 0, 700, 1400, 2100, 2800 Hz
  rise = math.log(3 / 2) / math.log(math.sqrt(2))           # at 1400 Hz, beyond the top
  np.testing.assert_allclose(filters, [[0, 0, 2 - rise, 0, 0]], atol=1e-12)


def spectrum(frame, length):
  """|DFT|^2, sum by sum."""
  return [abs(sum(x * cmath.exp(-2j * math.pi * k * n / length) for n, x in enumerate(frame)))**2
          for k in range(length // 2 + 1)]


SOUND = np.random.default_rng(0).normal(scale=0.1, size=1000)


def test_filter_bank_of_one_frame_step_by_step():
  y = filter_bank.kaldi_filter_bank(SOUND, mels=20)
  assert y.shape == (1 + (1000 - 400) // 160, 20) and y.dtype == np.float32
  frame = SOUND[320:720] - SOUND[320:720].mean()
  frame = [x - 0.97 * frame[max(n - 1, 0)] for n, x in enumerate(frame)]
  frame = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n, x in enumerate(frame)]
  power = np.array(spectrum(frame, 512))
  expected = np.log(mel.kaldi_filters(20, 257, 16000, 20, 8000) @ power)
  np.testing.assert_allclose(y[2], expected, atol=1e-5)     # float32


def test_log_mel_of_one_frame_step_by_step():
  y = log_mel.whisper_spectrogram(SOUND, mels=20, seconds=0.1)
  assert y.shape == (10, 20) and y.dtype == np.float32
  whole = np.concatenate([SOUND[200:0:-1], SOUND, np.zeros(800)])              # mirrored, and padded to 1600 samples
  frame = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n, x in enumerate(whole[160:560])]
  loud = np.log10(mel.slaney_filters(20, 201, 16000) @ np.array(spectrum(frame, 400)))
  np.testing.assert_allclose(y[1], (loud + 4) / 4, atol=1e-5)                  # float32
  assert y.min() == pytest.approx(y.max() - 2)                                 # silence is 8 powers of ten below


def test_a_tone_is_loudest_in_its_filter():
  tone = 0.5 * np.sin(2 * math.pi * 1000 * np.arange(8000) / 16000)
  corners = np.linspace(mel.kaldi_mel(20), mel.kaldi_mel(8000), 42)
  assert abs(corners[1 + filter_bank.kaldi_filter_bank(tone, mels=40)[5].argmax()] - mel.kaldi_mel(1000)) < corners[1] - corners[0]
  corners = np.linspace(0, mel.slaney_mel(8000), 82)
  assert abs(corners[1 + log_mel.whisper_spectrogram(tone, seconds=0.5)[20].argmax()] - 15) < corners[1]


def test_the_input_of_ast_is_padded_cut_and_scaled():
  y = filter_bank.kaldi_filter_bank(SOUND, mels=20)
  padded = filter_bank.ast_spectrogram(SOUND, frames=6, mels=20, mean=-4.0, std=2.0)
  np.testing.assert_allclose(padded, np.concatenate([(y + 4) / 4, np.ones((2, 20))]), rtol=1e-6)
  np.testing.assert_array_equal(filter_bank.ast_spectrogram(SOUND, frames=3, mels=20, mean=-4.0, std=2.0), padded[:3])


@pytest.mark.parametrize('module', [filter_bank, log_mel, mel])
def test_examples(module):
  failed, tried = doctest.testmod(module)
  assert tried and not failed


def test_errors():
  with pytest.raises(TypeError, match='dtype int16; 16-bit samples are divided by 32768'):
    filter_bank.ast_spectrogram(np.zeros(500, np.int16))
  with pytest.raises(ValueError, match=r'N >= 400, but it has shape \[399\]'):
    filter_bank.kaldi_filter_bank(np.zeros(399))
  with pytest.raises(ValueError, match=r'shape \[2, 500\]; channels are averaged'):
    log_mel.whisper_spectrogram(np.zeros((2, 500)))
  with pytest.raises(ValueError, match='seconds=0.01; allowed is at least 0.025'):
    log_mel.whisper_spectrogram(SOUND, seconds=0.01)
