"""Takes chosen files out of a package archive: wheels and zips, gzip'd tars, Debian's .deb. Nothing in it is run."""
import fnmatch
import io
import pathlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO


class UnsafeArchive(ValueError):
  """An archive with a member that would land outside the folder it is unpacked into."""


def extract(archive: pathlib.Path, folder: pathlib.Path, root: str, members: tuple[str, ...]) -> list[pathlib.Path]:
  """Writes the wanted members of `archive` into `folder`; their paths are relative to `root`.

  Only regular files are written: links and devices are passed over. The archive's permissions are ignored.

  Args:
    archive: a .whl, .zip, .tar.gz, .tgz or .deb file.
    folder: an existing folder.
    root: the folder inside the archive that counts as its top.
    members: shell patterns of the paths (relative to `root`) to keep; `*` also matches '/'.

  Returns:
    the files written.

  Raises:
    UnsafeArchive: a member has an absolute path or a '..' in it.
    LookupError: a pattern found nothing.
  """
  written, used = [], set()
  prefix = root.strip('/') + '/' if root else ''
  for name, stream in _members(archive):
    path = pathlib.PurePosixPath(name.replace('\\', '/'))
    if path.is_absolute() or '..' in path.parts or ':' in path.parts[0]:
      raise UnsafeArchive(f'{archive.name}: member {name!r} points outside of the archive. Nothing was unpacked.')
    if not str(path).startswith(prefix):
      continue
    relative = str(path)[len(prefix):]
    matching = {pattern for pattern in members if fnmatch.fnmatchcase(relative, pattern)}
    if matching:
      target = folder / relative
      target.parent.mkdir(parents=True, exist_ok=True)
      with target.open('wb') as out:
        shutil.copyfileobj(stream, out, 1 << 20)
      written.append(target)
      used |= matching
  if missing := sorted(set(members) - used):
    raise LookupError(f'{archive.name} has no member like {", ".join(missing)} in {root or "/"}.')
  return written


def _members(archive: pathlib.Path) -> Iterator[tuple[str, IO[bytes]]]:
  """(path, contents) of the regular files of an archive, in its order."""
  if archive.suffix in ('.whl', '.zip'):
    with zipfile.ZipFile(archive) as file:
      for info in file.infolist():
        if not info.is_dir():
          with file.open(info) as stream:
            yield info.filename, stream
  elif archive.suffix == '.deb':
    with archive.open('rb') as file:
      yield from _tar(_deb_data(file))
  else:
    with archive.open('rb') as file:
      yield from _tar(file)


def _tar(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
  with tarfile.open(fileobj=file, mode='r:*') as tar:
    for info in tar:
      if info.isfile():
        yield info.name.removeprefix('./'), tar.extractfile(info)


def _deb_data(file: IO[bytes]) -> IO[bytes]:
  """The data.tar.* of a .deb: an `ar` archive of members with 60-byte headers (size at 48:58), padded to even sizes."""
  if file.read(8) != b'!<arch>\n':
    raise ValueError('Not a Debian package: it does not begin with the signature of an ar archive.')
  while header := file.read(60):
    name, size = header[:16].decode().strip().rstrip('/'), int(header[48:58])
    if name.startswith('data.tar'):
      if name.endswith('.zst'):
        raise ValueError(f'This .deb is compressed with zstd ({name}), which is not supported here.')
      return io.BytesIO(file.read(size))
    file.seek(size + size % 2, io.SEEK_CUR)
  raise ValueError('Not a Debian package: it holds no data.tar.')
