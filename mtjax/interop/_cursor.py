"""Takes a binary file apart from its beginning on, and says where it ends too early."""
import pathlib
from typing import BinaryIO

import numpy as np


class Cursor:
  """Plain reads, each checked against the size of the file before memory is asked for.

  Args:
    path: the file, for error messages.
    file: the same, open; what has been read of it is left out.
  """

  def __init__(self, path: pathlib.Path, file: BinaryIO):
    self.path, self.size, self._file = path, path.stat().st_size, file

  @property
  def at(self) -> int:
    """The next byte."""
    return self._file.tell()

  def take(self, count: int, what: str) -> bytes:
    """The next bytes. Raises ValueError if there are not so many; `what` they belong to is in the message."""
    self._check(count, what)
    return self._file.read(count)

  def skip(self, count: int, what: str) -> None:
    """Passes over bytes that are there. Raises as `take`."""
    self._check(count, what)
    self._file.seek(count, 1)

  def number(self, dtype: str, what: str) -> int | float | bool:
    """One number of a numpy dtype, e.g. '<u4'. Raises as `take`."""
    return np.frombuffer(self.take(np.dtype(dtype).itemsize, what), dtype)[0].item()

  def text(self, length: str, what: str) -> str:
    """A string behind its length in bytes, which is of the dtype `length`. Raises as `take`, and if it is not UTF-8."""
    raw = self.take(self.number(length, what), what)
    try:
      return raw.decode()
    except UnicodeDecodeError as error:
      raise ValueError(f'{self.path} is damaged at {what}: a string is not UTF-8 ({error}).') from error

  def _check(self, count: int, what: str) -> None:
    if count > self.size - self.at:
      raise ValueError(f'{self.path} is damaged or cut off at {what}: {count} bytes are due at byte {self.at}, the '
                       f'file ends at {self.size}.')
