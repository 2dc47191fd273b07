"""Reads a pickled pandas table as data: no pickle machine runs, nothing in the file is imported or called.

Unpickling a downloaded file lets it run any code. Here the stream of opcodes is only decoded (`pickletools.genops`),
and what it would construct becomes inert tuples; from those the numeric and text blocks are read. Whatever is not in
the short list of forms that a table of plain columns needs is an error.
"""
import lzma
import pathlib
import pickletools
from typing import Any, NamedTuple

import numpy as np


class Name(NamedTuple):
  """What the stream calls by name, e.g. 'numpy.dtype'. Never imported."""
  text: str


class Made:
  """What the stream would construct: `made` from `args`, then given `state`. Never called."""

  def __init__(self, made: Any, args: Any):
    self.made, self.args, self.state = made, args, None


PUSH = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
NEW = {'EMPTY_LIST': list, 'EMPTY_DICT': dict, 'EMPTY_TUPLE': tuple}
LITERALS = {'SHORT_BINUNICODE', 'BINUNICODE', 'SHORT_BINBYTES', 'BINBYTES', 'BYTEARRAY8', 'BININT', 'BININT1',
            'BININT2', 'BINFLOAT', 'LONG1'}


def decode(data: bytes) -> Any:
  """The opcodes of one pickle (protocol 5, the subset that tables use) -> lists, dicts, tuples, literals, `Made`."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: list[Any] = []

  def pop_mark() -> list[Any]:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for op, argument, _ in pickletools.genops(data):
    match op.name:
      case 'PROTO' | 'FRAME':
        pass
      case name if name in LITERALS:
        stack.append(argument)
      case name if name in PUSH:
        stack.append(PUSH[name])
      case name if name in NEW:
        stack.append(NEW[name]())
      case 'MARK':
        marks.append(len(stack))
      case 'MEMOIZE':
        memo.append(stack[-1])
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        count = int(op.name[-1])
        stack[-count:] = [tuple(stack[-count:])]
      case 'TUPLE':
        stack.append(tuple(pop_mark()))
      case 'APPEND':
        stack[-2].append(stack.pop())
      case 'APPENDS':
        items = pop_mark()
        stack[-1].extend(items)
      case 'SETITEM':
        value, key = stack.pop(), stack.pop()
        stack[-1][key] = value
      case 'SETITEMS':
        items = pop_mark()
        stack[-1].update(zip(items[::2], items[1::2]))
      case 'STACK_GLOBAL':
        attribute, module = stack.pop(), stack.pop()
        stack.append(Name(f'{module}.{attribute}'))
      case 'NEWOBJ' | 'REDUCE':
        args, made = stack.pop(), stack.pop()
        stack.append(Made(made, args))
      case 'BUILD':
        state = stack.pop()
        stack[-1].state = state
      case 'STOP':
        return stack.pop()
      case _:
        raise ValueError(f'The table uses the pickle opcode {op.name}, which plain tables do not need; not read.')
  raise ValueError('The table is cut short.')


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{column: array [rows]} of an xz-compressed pandas frame whose columns are numbers or strings."""
  frame = decode(lzma.decompress(path.read_bytes()))
  manager = frame.state['_mgr']                       # Made(BlockManager, (blocks, [columns, rows]))
  blocks, (columns, _) = manager.args
  names = _array(columns.args[1]['data'])
  table: dict[str, np.ndarray] = {}
  for block in blocks:
    values, where, _ = block.args
    for name, row in zip(names[_positions(where)], _array(values)):
      table[str(name)] = row
  return {str(name): table[str(name)] for name in names}


def _positions(where: Made) -> Any:
  """Which columns a block holds: a slice or an array of indices."""
  return slice(*where.args) if where.made == Name('builtins.slice') else _array(where)


def _array(made: Made) -> np.ndarray:
  """numpy's two forms: _frombuffer(bytes, dtype, shape, order), and _reconstruct with state (…, dtype, …, data)."""
  match made.made.text.rsplit('.', 1)[-1]:
    case '_frombuffer':
      data, dtype, shape, order = made.args
    case '_reconstruct':
      _, shape, dtype, fortran, data = made.state
      order = 'F' if fortran else 'C'
    case other:
      raise ValueError(f'The table holds a {other}; only plain numpy arrays are read.')
  if isinstance(data, list):
    array = np.empty(len(data), object)
    array[:] = data
  else:
    array = np.frombuffer(data, np.dtype(dtype.state[1] + dtype.args[0]))
  return array.reshape(shape, order=order)
