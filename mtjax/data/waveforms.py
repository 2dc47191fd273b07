"""Formats of sound: a column of waveforms -> the spectrograms that an encoder reads.

    waveform -> at 16 kHz (polyphase filter) -> log-mel spectrogram [T, M]

the last step as in `mtjax.data.log_mel` (Whisper) and `mtjax.data.filter_bank` (AST).

A waveform is [N] of any length, one channel: floats in [-1, 1], or 16-bit integers, which are divided by 2^15.
"""
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mtjax.data import filter_bank, log_mel

TARGET_RATE = 16000


def resample(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
  """waveform [N] -> floats [ceil(16000 N / sample_rate)] at 16 kHz.

  Example:
    >>> resample(np.zeros(80, np.int16), sample_rate=8000).shape
    (160,)
  """
  waveform = np.asarray(waveform)
  if waveform.dtype == np.int16:
    waveform = waveform / 2.0**15
  if sample_rate == TARGET_RATE:
    return waveform
  from scipy.signal import resample_poly  # here, because `import mtjax` stays light

  common = math.gcd(TARGET_RATE, sample_rate)
  return resample_poly(waveform, TARGET_RATE // common, sample_rate // common)


@dataclasses.dataclass(frozen=True)
class _Spectrogram:
  """What both formats share.

  Args:
    column: of waveforms.
    sample_rate: of the column, in Hz.
    mels: M.
  """

  column: str
  sample_rate: int = TARGET_RATE
  mels: int = 80

  def __post_init__(self):
    for field in ('sample_rate', 'mels'):
      value = getattr(self, field)
      if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{type(self).__name__} has {field}={value!r}; allowed is an integer >= 1.')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    return (self.column,)

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The spectrograms [B, T, M] float32 of rows of waveforms."""
    return np.stack([self.of(resample(x, self.sample_rate)) for x in rows[self.column]])

  def of(self, waveform: np.ndarray) -> np.ndarray:
    """[N] at 16 kHz -> [T, M]."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class WhisperSpectrogram(_Spectrogram):
  """Whisper's spectrogram, float32 [B, 100 seconds, M].

  Args:
    column: of waveforms.
    sample_rate: of the column, in Hz.
    mels: M.
    seconds: to which a waveform is cut or padded; Whisper itself was trained on 30.

  Example:
    >>> WhisperSpectrogram('audio', sample_rate=8000, seconds=0.5)({'audio': [np.ones(800, np.int16)]}).shape
    (1, 50, 80)
  """

  seconds: float = 30.0

  def of(self, waveform):
    """[N] at 16 kHz -> [T, M]."""
    return log_mel.whisper_spectrogram(waveform, mels=self.mels, seconds=self.seconds)


@dataclasses.dataclass(frozen=True)
class AstSpectrogram(_Spectrogram):
  """The audio spectrogram transformer's, float32 [B, T, M]; a waveform has 25 ms or more.

  Args:
    column: of waveforms.
    sample_rate: of the column, in Hz.
    mels: M.
    frames: T, one every 10 ms.
    mean, std: of the log-mel energies over the training data; the defaults are those of AudioSet.
  """

  mels: int = 128
  frames: int = 1024
  mean: float = filter_bank.MEAN
  std: float = filter_bank.STD

  def of(self, waveform):
    """[N] at 16 kHz -> [T, M]."""
    return filter_bank.ast_spectrogram(waveform, frames=self.frames, mels=self.mels, mean=self.mean, std=self.std)
