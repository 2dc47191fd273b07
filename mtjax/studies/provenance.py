"""Where numbers come from: commit, versions, device, and the commands that made them.

    FOLDER/made.json    [{'commit', 'command', 'versions', 'device'}], one a time that something was run
"""
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax


def commit() -> str | None:
  """The short hash of the commit of the current folder, with '+' where files differ from it; None outside of git."""
  def git(*arguments):
    return subprocess.run(['git', *arguments], capture_output=True, text=True, check=True).stdout.strip()
  try:
    return git('rev-parse', '--short', 'HEAD') + '+' * bool(git('status', '--porcelain', '--untracked-files=no'))
  except (OSError, subprocess.CalledProcessError):
    return None


def versions() -> dict[str, str]:
  """Of what the numbers depend on."""
  return {'python': platform.python_version(), **{name: importlib.metadata.version(name)
                                                  for name in ('jax', 'flax', 'optax', 'numpy')}}


def device() -> str:
  """What it ran on."""
  first = jax.devices()[0]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return f'{first.device_kind}' + (f', {cores} cores' if first.platform == 'cpu' else f' x {jax.device_count()}')


def add(folder: pathlib.Path, command: str) -> None:
  """Notes that `command` is run in `folder` now; the same as before is noted once."""
  here = {'commit': commit(), 'command': command, 'versions': versions(), 'device': device()}
  if here not in (before := read(folder)):
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / 'made.tmp'
    temporary.write_text(json.dumps([*before, here], indent=1) + '\n', encoding='utf-8')
    temporary.replace(folder / 'made.json')


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """What was noted, oldest first."""
  path = folder / 'made.json'
  return json.loads(path.read_text(encoding='utf-8')) if path.exists() else []


def joined(notes: list[dict[str, Any]]) -> dict[str, Any]:
  """Several notes as one: commits and devices one after the other, of the rest the last."""
  if not notes:
    return {'commit': None, 'command': '', 'versions': {}, 'device': ''}
  each = {name: list(dict.fromkeys(str(note[name]) for note in notes)) for name in ('commit', 'device')}
  return {**notes[-1], **{name: ', '.join(values) for name, values in each.items()}}
