"""Kaldi's log-mel filter bank, as the audio spectrogram transformer reads it.

Gong, Chung & Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, https://arxiv.org/abs/2104.01778; Povey et
al., "The Kaldi Speech Recognition Toolkit", 2011, https://kaldi-asr.org/doc/feat.html.

    frames of 25 ms every 10 ms, none beyond the end;   x <- x - mean(x);   x_n <- x_n - 0.97 x_(n-1), x_(-1) = x_0
    y = ln max(filters |FFT(hann x)|^2, 2^-23)
    spectrogram = (y cut or padded with 0 to T frames - mean) / (2 std)

without dither, hann the symmetric window, the FFT of the next power of two, filters from 20 Hz to half the sample rate.
The samples are in [-1, 1], as in the published checkpoints (Kaldi itself has 16-bit integers). Shapes: N samples, T
frames, M mels.
"""
import numpy as np

from mtjax.data.mel import check_waveform, kaldi_filters

MEAN, STD = -4.2677393, 4.5689974  # of AudioSet
FLOOR = 2.0**-23


def kaldi_filter_bank(waveform: np.ndarray, *, mels: int = 128, sample_rate: int = 16000) -> np.ndarray:
  """waveform [N] -> y [1 + (N - 400) // 160, M] float32 (at 16 kHz), before it is cut and scaled."""
  size, hop = sample_rate * 25 // 1000, sample_rate * 10 // 1000
  x = check_waveform(waveform, 'kaldi_filter_bank', size)
  frames = np.lib.stride_tricks.sliding_window_view(x, size)[::hop]
  frames = frames - frames.mean(axis=1, keepdims=True)
  frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
  length = 1 << (size - 1).bit_length()
  power = np.abs(np.fft.rfft(frames * np.hanning(size), length)) ** 2
  filters = kaldi_filters(mels, length // 2 + 1, sample_rate, 20, sample_rate / 2)
  return np.log(np.maximum(power @ filters.T, FLOOR)).astype(np.float32)


def ast_spectrogram(waveform: np.ndarray, *, frames: int = 1024, mels: int = 128, sample_rate: int = 16000,
                    mean: float = MEAN, std: float = STD) -> np.ndarray:
  """waveform [N] -> [T, M] float32, an input of `mtjax.encoders.AST`.

  Args:
    waveform: floats in [-1, 1], one channel, 25 ms or more.
    frames: T.
    mels: M.
    sample_rate: in Hz; the published checkpoints were trained at 16000.
    mean, std: of y over the training data; the defaults are those of AudioSet.

  Example:
    >>> ast_spectrogram(np.sin(np.arange(16000) / 5), frames=100, mels=64).shape
    (100, 64)
  """
  y = kaldi_filter_bank(waveform, mels=mels, sample_rate=sample_rate)[:frames]
  y = np.pad(y, [(0, frames - len(y)), (0, 0)])
  return ((y - mean) / (2 * std)).astype(np.float32)
