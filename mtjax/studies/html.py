"""Parts of a self-contained HTML page, which escape whatever text they are given.

Text becomes `Safe` by `escape` or by `tag`, and only `Safe` text is put into a page as it is: forgetting to escape is
not possible. The page needs no network and no script: its style is inline, its images are data URLs, what folds is
<details>, and it is light or dark as the reader's system is.
"""
import base64
import html
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_VOID = ('br', 'hr', 'img', 'meta')


class Safe(str):
  """HTML that needs no more escaping."""


def escape(value: Any) -> Safe:
  """`Safe` as it is; anything else as escaped text."""
  return value if isinstance(value, Safe) else Safe(html.escape(str(value)))


def tag(name: str, /, *children: Any, **attributes: Any) -> Safe:
  """<name attributes>children</name>.

  Args:
    name: the element.
    *children: `Safe` or text; sequences are spliced, None is left out.
    **attributes: class_='x' gives class="x", data_x gives data-x; True gives a bare attribute, None and False none.
  """
  opening = name
  for key, value in attributes.items():
    key = key.rstrip('_').replace('_', '-')
    if value is True:
      opening += f' {key}'
    elif value is not None and value is not False:
      opening += f' {key}="{html.escape(str(value))}"'
  if name in _VOID:
    return Safe(f'<{opening}>')
  return Safe(f'<{opening}>{join(*children)}</{name}>')


def join(*children: Any) -> Safe:
  """Children one after the other; sequences are spliced, None is left out."""
  parts = []
  for child in children:
    if isinstance(child, (list, tuple)):
      parts.append(join(*child))
    elif child is not None:
      parts.append(escape(child))
  return Safe(''.join(parts))


def number(value: Any, digits: int = 4) -> str:
  """A number for reading: 30,000; 0.8765; 123.46; 0.00123; 1.23e-05; – for NaN and for None."""
  if value is None or isinstance(value, float) and math.isnan(value):
    return '–'
  if isinstance(value, float) and math.isinf(value):
    return '∞' if value > 0 else '−∞'
  if isinstance(value, int):
    text = f'{value:,}'
  elif value != 0 and not 10.0 ** (2 - digits) <= abs(value) < 1e7:
    text = f'{value:.{digits - 1}g}'
  else:
    whole = len(str(int(abs(value)))) - 1
    text = f'{value:,.{max(digits - whole, 0)}f}'
  return text.replace('-', '−') if 'e' not in text else text


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, text_columns: int = 1) -> Safe:
  """A table that scrolls sideways where it is too wide. The first `text_columns` are words, the others are numbers."""
  def cells(kind, row):
    return [tag(kind, cell, class_=None if i < text_columns else 'num') for i, cell in enumerate(row)]
  head = tag('thead', tag('tr', cells('th', header)))
  body = tag('tbody', [tag('tr', cells('td', row)) for row in rows])
  return tag('div', tag('table', head, body), class_='scroll', tabindex=0)


def facts(items: Mapping[str, Any]) -> Safe:
  """Labels over values, side by side."""
  return tag('dl', [tag('div', tag('dt', label), tag('dd', value)) for label, value in items.items()], class_='facts')


def details(summary: Any, *children: Any, open_: bool = False) -> Safe:
  """What is folded away under one line."""
  return tag('details', tag('summary', summary), *children, open_=open_)


def name(text: str) -> Safe:
  """An identifier that may break after an underscore, a slash or a full stop."""
  return Safe(re.sub(r'([_/.])', r'\1<wbr>', html.escape(text, quote=False)))


def section(anchor: str, title: str, *children: Any) -> Safe:
  """A headed part of the page that a link can point to."""
  return tag('section', tag('h2', title), *children, id=anchor)


def tree(value: Any) -> Safe:
  """Nested dicts as folding lines; a folded line shows the beginning of what is in it."""
  if not isinstance(value, Mapping):
    return tag('code', repr(value))
  items = []
  for key, child in value.items():
    if isinstance(child, Mapping) and child:
      summary = join(tag('b', key), ' ', tag('span', _preview(child), class_='preview'))
      items.append(tag('li', details(summary, tree(child))))
    else:
      items.append(tag('li', tag('b', key), ' ', tag('code', repr(child)), class_='leaf'))
  return tag('ul', items, class_='tree')


def encode_image(array: np.ndarray) -> str:
  """uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] -> a PNG file in base64, by the standard library alone."""
  array = np.asarray(array)
  pixels = array[..., None] if array.ndim == 2 else array
  if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
    raise ValueError(f'encode_image takes uint8 [H, W] or [H, W, C] with 1, 3 or 4 channels, none of them empty; '
                     f'got {array.dtype} {list(array.shape)}.')
  height, width, channels = pixels.shape
  color_type = {1: 0, 3: 2, 4: 6}[channels]
  rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0 = none

  def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

  png = (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, color_type, 0, 0, 0))
         + chunk(b'IDAT', zlib.compress(rows.tobytes(), 9)) + chunk(b'IEND', b''))
  return base64.b64encode(png).decode()


def image(png: str, alt: str) -> Safe:
  """A PNG in base64 as a picture; a small one keeps its pixels sharp when enlarged."""
  try:
    small = struct.unpack('>I', base64.b64decode(png[:32])[16:20])[0] <= 64
  except (ValueError, struct.error):
    small = False
  return tag('img', src=f'data:image/png;base64,{png}', alt=alt, class_='pixels' if small else None)


def page(title: str, *children: Any) -> str:
  """The whole document."""
  head = tag('head', tag('meta', charset='utf-8'),
             tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
             tag('meta', name='color-scheme', content='light dark'),
             tag('title', title), tag('style', Safe(_STYLE)))
  return f'<!DOCTYPE html>\n{tag("html", head, tag("body", tag("main", *children)), lang="en")}\n'


def _preview(value: Mapping[str, Any]) -> str:
  parts = (f'{key}: …' if isinstance(child, Mapping) and child else f'{key}: {repr(child)}'
           for key, child in value.items())
  return ', '.join(parts)


# Colours by meaning; the six hues are those of Okabe & Ito, lighter ones of them on a dark ground.
_STYLE = """
:root { --ground: #ffffff; --card: #ffffff; --sunken: #f5f6f8; --ink: #1d232b; --muted: #5b6572; --line: #dde1e6;
  --blue: #0072b2; --vermilion: #d55e00; --green: #009e73; --purple: #cc79a7; --orange: #e69f00; --sky: #56b4e9;
  --good: #00734f; --bad: #b34a00; --halt: #8a4a6d;
  --sans: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif;
  --mono: ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --card: #1b1f26; --sunken: #20252d; --ink: #e6e9ee;
  --muted: #9aa5b3; --line: #343b46; --blue: #56b4e9; --vermilion: #f0833a; --green: #2cc295; --purple: #dc93bb;
  --orange: #f0b429; --sky: #8fd0f5; --good: #2cc295; --bad: #f0833a; --halt: #dc93bb; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 var(--sans); }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 0 0 6px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; max-width: 76ch; }
a { color: var(--blue); }
code, pre { font-family: var(--mono); font-size: .9em; overflow-wrap: anywhere; }
pre { margin: 0; padding: 12px 14px; background: var(--sunken); border-radius: 6px; white-space: pre-wrap; }
pre.command { user-select: all; -webkit-user-select: all; cursor: copy; }
.muted, .subtitle { color: var(--muted); } .note { font-weight: 400; padding-left: 6px; }
.subtitle { margin: 4px 0 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 10px 0 18px; font-size: 14px; }
nav a { text-decoration: none; white-space: nowrap; }
.status { display: flex; gap: 12px; align-items: baseline; margin: 0 0 14px; padding: 10px 14px; border-radius: 6px;
  border-left: 5px solid var(--tone); background: var(--sunken); overflow-wrap: anywhere; }
.status b { color: var(--tone); white-space: nowrap; } .status div { min-width: 0; white-space: pre-wrap; }
.finished { --tone: var(--good); } .failed { --tone: var(--bad); } .stopped { --tone: var(--halt); }
.running { --tone: var(--blue); } .unknown { --tone: var(--muted); }
.verdict { margin: 0 0 14px; padding: 18px 22px; border-radius: 8px; border-left: 8px solid var(--tone);
  background: var(--sunken); overflow-wrap: anywhere; } .verdict p:last-child { margin: 0; }
.claim { font-size: 23px; line-height: 1.3; max-width: 52ch; text-wrap: pretty; }
.holds { font-size: 30px; line-height: 1.2; color: var(--tone); } .tone { color: var(--tone); font-weight: 600; }
.alarm { max-width: none; padding: 12px 18px; border: 3px dashed var(--bad); border-radius: 8px; color: var(--bad);
  font-size: 20px; font-weight: 650; }
.sentences { list-style: none; margin: 0 0 16px; padding: 0; }
.sentences li { margin: 0 0 10px; padding-left: 12px; border-left: 3px solid var(--tone); overflow-wrap: anywhere; }
.forest .row { display: grid; grid-template-columns: minmax(0, 30%) 1fr 84px; gap: 0 14px; align-items: center; }
.forest small, th small { display: block; color: var(--muted); font-size: 12.5px; font-weight: 400; }
.forest { padding-top: 12px; } .forest .row + .row { margin-top: 6px; }
.forest svg { overflow: visible; } .forest .axis { margin: 0 !important; }
.forest .num { font-size: 14px; } .word { display: inline-block; min-width: var(--min); }
.head { display: inline-block; max-width: 22ch; white-space: normal; overflow-wrap: anywhere; }
.forest .what { overflow-wrap: anywhere; font-size: 14px; line-height: 1.3; }
.ends { display: flex; justify-content: space-between; gap: 12px; font-size: 12.5px; color: var(--muted);
  white-space: nowrap; }
.cards { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--min, 240px)), 1fr)); }
.card { min-width: 0; padding: 14px 16px; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
.score .value { font-size: 34px; line-height: 1.15; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.score { font-size: 14px; }
.score.small { padding: 10px 12px; font-size: 13px; } .score.small .value { font-size: 24px; }
.score span { display: inline-block; margin-right: .8em; }
.panels { display: grid; gap: 4px 20px; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--min)), 1fr)); }
figure { margin: 0; min-width: 0; } figure svg { display: block; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 14px; margin: 2px 0 6px; font-size: 13px; }
.legend span { display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; min-width: 0; }
figure .legend svg { width: auto; flex: none; } .caption { font-size: 13.5px; margin: 0 0 6px; }
figure svg text { font-family: var(--sans) !important; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 14px 0 0; }
.facts div { min-width: 0; } dt { font-size: 13px; color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 6px 18px 6px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 500; white-space: nowrap; vertical-align: bottom; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; color: var(--muted); font-size: 12.5px; }
td.num b { font-weight: 600; }
.wrap { min-width: 220px; max-width: 62ch; overflow-wrap: anywhere; white-space: pre-wrap; }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--muted); font-size: 13.5px; }
summary b { color: var(--ink); } details .scroll { margin-top: 8px; max-height: 340px; overflow-y: auto; }
details table { font-size: 13px; }
.samples { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); margin: 8px 0 16px; }
.sample { border: 2px solid var(--line); border-radius: 6px; padding: 6px; font-size: 13px; line-height: 1.35;
  overflow-wrap: anywhere; }
.sample img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; margin-bottom: 5px; background: #000; }
.sample.wrong { border: 2px dashed var(--bad); } td img { height: 56px; display: block; }
img.pixels { image-rendering: pixelated; } .mark { font-weight: 700; }
.correct .mark, .mark.correct { color: var(--good); } .wrong .mark, .mark.wrong { color: var(--bad); }
.tree { list-style: none; margin: 0; padding-left: 18px; font-size: 14px; } section > .tree { padding-left: 0; }
.tree details { margin: 0; } .tree li { padding: 1px 0; } .tree .leaf { padding-left: 15px; }
.tree b { font-weight: 550; } .tree code { color: var(--green); }
.tree summary { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.tree details[open] > summary .preview { display: none; } .preview { font-size: 13px; opacity: .85; }
@media (max-width: 640px) { main { padding: 20px 14px 48px; } h1 { font-size: 23px; } .card { padding: 12px; }
  th, td { padding-right: 13px; } table { font-size: 13px; } .verdict { padding: 14px; } .claim { font-size: 19px; }
  .holds { font-size: 25px; } .forest .row { grid-template-columns: 1fr 78px; }
  .forest .what { grid-column: 1 / -1; } .forest .axis .what { display: none; }
  .forest .row:not(.axis) svg { overflow: hidden; } .word { min-width: min(var(--min), 15ch); } }
@media print { .scroll { overflow: visible; } .card, .sample { break-inside: avoid; } }
"""
