"""The tokenizer in a GGUF file: byte-level BPE, rebuilt for the package `tokenizers`.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (the keys `tokenizer.ggml.*`): the tokens by id, which of them
are marks, the merges in the order of their rank, and the name of the rule by which a text is cut up before the merges
are looked for:

    gpt-2               letters, digits, other signs, white space; a space belongs to what follows it
    smollm, starcoder   each digit by itself, then as gpt-2
    llama-bpe           up to three digits, letters with one sign before them; a word that is a token is not merged anew
"""
import pathlib
from typing import Any

from mtjax.config import did_you_mean
from mtjax.interop._gguf_file import scan
from mtjax.interop.tokenizers import Tokenizer, library

RULES = ('gpt-2', 'smollm', 'starcoder', 'llama-bpe')
CONTROL, USER = 3, 4     # token types: marks such as <|endoftext|>, and texts that are never cut up
LLAMA = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")


def tokenizer(path: str | pathlib.Path) -> Tokenizer:
  """The tokenizer of a GGUF file. It adds the marks in front and behind that the file asks for, and pads with its pad.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, has no tokenizer, or one of another kind.
    ImportError: the package `tokenizers` is not installed.
  """
  contents = scan(path)
  facts = {key.removeprefix('tokenizer.ggml.'): value for key, value in contents.metadata.items()
           if key.startswith('tokenizer.ggml.')}
  if (model := facts.get('model')) != 'gpt2':
    raise ValueError(f"{contents.path} has tokenizer.ggml.model={model!r}; allowed is 'gpt2' (byte-level BPE).")
  if missing := [key for key in ('tokens', 'merges') if key not in facts]:
    raise ValueError(f'{contents.path} lacks {", ".join(f"tokenizer.ggml.{key}" for key in missing)}.')
  rule = facts.get('pre', 'gpt-2')
  if rule not in RULES:
    raise ValueError(f'{contents.path} has tokenizer.ggml.pre={rule!r}. {did_you_mean(rule, RULES)}')
  return Tokenizer(_build(contents.path, facts, rule), pad_id=facts.get('padding_token_id'))


def _build(path: pathlib.Path, facts: dict[str, Any], rule: str) -> Any:
  """A tokenizers.Tokenizer."""
  lib, tokens = library('tokenizers'), facts['tokens']
  ids = {token: i for i, token in enumerate(tokens)}
  types = facts.get('token_type', [1] * len(tokens))
  if len(ids) < len(tokens) or len(types) != len(tokens):
    raise ValueError(f'{path} is damaged: it has {len(tokens)} tokens, {len(ids)} of them different, and {len(types)} '
                     f'types of tokens.')
  merges = [tuple(merge.split(' ')) for merge in facts['merges']]
  bad = [merge for merge in merges if len(merge) != 2 or not {*merge, ''.join(merge)} <= ids.keys()]
  if bad:
    raise ValueError(f'{path} is damaged: {len(bad)} merges are no pairs of tokens that make a token, e.g. {bad[0]!r}.')
  built = lib.Tokenizer(lib.models.BPE(vocab=ids, merges=merges, ignore_merges=rule == 'llama-bpe'))
  built.pre_tokenizer = _pre_tokenizer(lib, rule, bool(facts.get('add_space_prefix', False)))
  built.decoder = lib.decoders.ByteLevel()
  for kind, add in ((CONTROL, built.add_special_tokens), (USER, built.add_tokens)):
    add([lib.AddedToken(token, normalized=False, special=kind == CONTROL)
         for token, own in zip(tokens, types) if own == kind])
  first = _mark(path, facts, 'bos', tokens, default=rule == 'llama-bpe')
  last = _mark(path, facts, 'eos', tokens, default=False)
  if first or last:
    marks = [mark for mark in (first, last) if mark]
    built.post_processor = lib.processors.TemplateProcessing(
      single=[*first[:1], '$A', *last[:1]], pair=[*first[:1], '$A', *last[:1], *first[:1], '$B:1', *last[:1]],
      special_tokens=marks)
  return built


def _mark(path, facts, name, tokens, default) -> tuple[str, int] | tuple[()]:
  """The mark (token, id) that is put in front (bos) or behind (eos); () = none."""
  if not facts.get(f'add_{name}_token', default):
    return ()
  i = facts.get(f'{name}_token_id')
  if i is None or not 0 <= i < len(tokens):
    raise ValueError(f'{path} has tokenizer.ggml.{name}_token_id={i!r}; allowed is 0 <= id < {len(tokens)}.')
  return tokens[i], i


def _pre_tokenizer(lib, rule: str, space: bool) -> Any:
  pre = lib.pre_tokenizers
  if rule == 'llama-bpe':
    return pre.Sequence([pre.Split(lib.Regex(LLAMA), 'isolated'), pre.ByteLevel(space, use_regex=False)])
  byte_level = pre.ByteLevel(add_prefix_space=space)
  return byte_level if rule == 'gpt-2' else pre.Sequence([pre.Digits(individual_digits=True), byte_level])
