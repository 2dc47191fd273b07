"""Mel filters: triangles that gather the bins of a spectrum, narrow at low frequencies and wide at high ones.

    Kaldi (HTK):  mel(f) = 1127 ln(1 + f / 700)
    Slaney:       mel(f) = 3 f / 200 below 1000 Hz, 15 + 27 ln(f / 1000) / ln 6.4 above

Stevens, Volkmann & Newman, 1937; M. Slaney, "Auditory Toolbox", 1998,
https://engineering.purdue.edu/~malcolm/interval/1998-010/. Filter m rises from corner m to corner m + 1 and falls to
corner m + 2; the corners are equally far apart in mels. Kaldi's triangles are straight in mels, Slaney's in Hz, and
each of Slaney's has the area 1. Shapes: M filters, F bins of a spectrum.
"""
import numpy as np


def kaldi_mel(frequency: np.ndarray) -> np.ndarray:
  """Hz -> mels, after Kaldi and HTK."""
  return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)


def slaney_mel(frequency: np.ndarray) -> np.ndarray:
  """Hz -> mels, after Slaney."""
  frequency = np.asarray(frequency, np.float64)
  return np.where(frequency < 1000, 3 * frequency / 200,
                  15 + 27 * np.log(np.maximum(frequency, 1000) / 1000) / np.log(6.4))


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
  """The inverse of `slaney_mel`."""
  mel = np.asarray(mel, np.float64)
  return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


def kaldi_filters(num_filters: int, num_bins: int, sample_rate: int, low: float, high: float) -> np.ndarray:
  """[M, F] float64 for spectra of F bins from 0 to half the sample rate; the last bin is in no filter.

  Args:
    num_filters: M.
    num_bins: F.
    sample_rate: in Hz.
    low, high: the outermost corners, in Hz.
  """
  bins = kaldi_mel(np.linspace(0, sample_rate / 2, num_bins))
  filters = _triangles(bins, np.linspace(kaldi_mel(low), kaldi_mel(high), num_filters + 2))
  filters[:, -1] = 0
  return filters


def slaney_filters(num_filters: int, num_bins: int, sample_rate: int) -> np.ndarray:
  """[M, F] float64 from 0 to half the sample rate.

  Example:
    >>> filters = slaney_filters(4, 101, 16000)                  # bins are 80 Hz apart
    >>> print((80 * filters.sum(axis=1)).round(2))
    [1. 1. 1. 1.]
  """
  bins = np.linspace(0, sample_rate / 2, num_bins)
  corners = slaney_hertz(np.linspace(0, slaney_mel(sample_rate / 2), num_filters + 2))
  return _triangles(bins, corners) * (2 / (corners[2:] - corners[:-2]))[:, None]


def _triangles(bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
  """[M, F]: filter m at the bins, which are in the unit of the corners [M + 2]."""
  rising = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
  falling = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
  return np.maximum(0, np.minimum(rising, falling))


def check_waveform(waveform: np.ndarray, name: str, least: int) -> np.ndarray:
  """A waveform as float64 [N]. Raises unless it is floats of one channel, and at least so many samples."""
  waveform = np.asarray(waveform)
  if not np.issubdtype(waveform.dtype, np.floating):
    raise TypeError(f'{name} reads a waveform of floats in [-1, 1], but it has dtype {waveform.dtype}; 16-bit samples '
                    f'are divided by 32768.')
  if waveform.ndim != 1 or len(waveform) < least:
    raise ValueError(f'{name} reads a waveform [N] with N >= {least}, but it has shape {list(waveform.shape)}; '
                     f'channels are averaged before.')
  return waveform.astype(np.float64)
