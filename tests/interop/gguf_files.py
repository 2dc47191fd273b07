"""Writes GGUF files, of metadata and of tensors as bytes."""
import struct

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30


def text(value):
  return struct.pack('<Q', len(value.encode())) + value.encode()


def value(x):
  """A value behind its type."""
  if isinstance(x, bool):
    return struct.pack('<I?', 7, x)
  if isinstance(x, int):
    return struct.pack('<II', 4, x)
  if isinstance(x, float):
    return struct.pack('<If', 6, x)
  if isinstance(x, str):
    return struct.pack('<I', 8) + text(x)
  values = [value(item) for item in x]
  return struct.pack('<I', 9) + values[0][:4] + struct.pack('<Q', len(values)) + b''.join(v[4:] for v in values)


def gguf_bytes(metadata, tensors, version=3, alignment=32):
  """The file: metadata {key: value, or (type, bytes)}, tensors {name: float32 array, or (shape, type, bytes)}."""
  head = b'GGUF' + struct.pack('<IQQ', version, len(tensors), len(metadata))
  for key, x in metadata.items():
    head += text(key) + (struct.pack('<I', x[0]) + x[1] if isinstance(x, tuple) else value(x))
  data = b''
  for name, x in tensors.items():
    shape, kind, raw = x if isinstance(x, tuple) else (x.shape, F32, np.asarray(x, '<f4').tobytes())
    data += bytes(-len(data) % alignment)
    head += text(name) + struct.pack(f'<I{len(shape)}QIQ', len(shape), *shape[::-1], kind, len(data))
    data += raw
  return head + bytes(-len(head) % alignment) + data
