"""Whisper's log-mel spectrogram.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, section 2.2,
https://arxiv.org/abs/2212.04356.

    x cut or padded with 0 to 30 seconds, and mirrored at both ends;   frames of 25 ms every 10 ms
    y = log10 max(filters |FFT(hann x)|^2, 1e-10)
    spectrogram = (max(y, max(y) - 8) + 4) / 4

hann the periodic window, the FFT of 400 samples, Slaney's filters from 0 to 8000 Hz; the last frame is left out.
Shapes: N samples at 16 kHz, T = 100 seconds frames, M mels (80; 128 in large-v3).
"""
import numpy as np

from mtjax.data.mel import check_waveform, slaney_filters

SAMPLE_RATE, SIZE, HOP = 16000, 400, 160


def whisper_spectrogram(waveform: np.ndarray, *, mels: int = 80, seconds: float = 30.0) -> np.ndarray:
  """waveform [N] -> [T, M] float32, an input of `mtjax.encoders.Whisper`.

  Args:
    waveform: floats in [-1, 1] at 16000 Hz, one channel.
    mels: M.
    seconds: to which it is cut or padded.

  Example:
    >>> whisper_spectrogram(np.sin(np.arange(16000) / 5), seconds=2).shape
    (200, 80)
  """
  length = round(seconds * SAMPLE_RATE)
  if length < SIZE:
    raise ValueError(f'whisper_spectrogram has seconds={seconds!r}; allowed is at least {SIZE / SAMPLE_RATE}.')
  x = check_waveform(waveform, 'whisper_spectrogram', 1)[:length]
  x = np.pad(np.pad(x, (0, length - len(x))), SIZE // 2, mode='reflect')
  frames = np.lib.stride_tricks.sliding_window_view(x, SIZE)[::HOP][:-1]
  power = np.abs(np.fft.rfft(frames * np.hanning(SIZE + 1)[:-1])) ** 2
  y = np.log10(np.maximum(power @ slaney_filters(mels, SIZE // 2 + 1, SAMPLE_RATE).T, 1e-10))
  return ((np.maximum(y, y.max() - 8) + 4) / 4).astype(np.float32)
