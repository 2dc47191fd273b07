"""One file over HTTP: resumed where it broke off, verified, and put in place at once or not at all."""
import base64
import contextlib
import hashlib
import http.client
import os
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import tqdm

CHUNK = 1 << 20
CERTIFICATES = ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'NODE_EXTRA_CA_CERTS')


class Refused(ValueError):
  """A file whose contents are not those that were pinned."""


def download(url: str, target: pathlib.Path, sha256: str, size: int, *, retries: int = 4, wait: float = 1.0) -> None:
  """Brings `url` to `target`.

  The bytes go to `target` + '.part', which a later call (or retry) continues by an HTTP Range request. They are hashed
  on the way; only a file with the pinned hash is renamed to `target`. A resumed file with a wrong hash may have been
  damaged on disk: it is fetched once more from its first byte.

  Args:
    url: http, https or file address; user:password@ is sent as basic authentication.
    sha256: the pinned hash, hexadecimal.
    size: the number of bytes that belong to that hash.
    retries: how often a broken connection is taken up again.
    wait: seconds before the first retry; doubled each time.

  Raises:
    Refused: the bytes that the server gives are not the pinned ones.
    OSError: no (complete) answer after all retries.
  """
  if target.exists() and hash_file(target) == sha256:
    return
  part = target.with_name(target.name + '.part')
  part.parent.mkdir(parents=True, exist_ok=True)
  while True:
    resumed = part.exists() and part.stat().st_size > 0
    digest = _complete(url, part, size, retries, wait)
    if digest == sha256:
      os.replace(part, target)
      return
    got = part.stat().st_size
    part.unlink()
    if not resumed:
      raise Refused(f'{target.name}: expected {size} bytes with sha256 {sha256}, got {got} bytes with {digest}. '
                    f'The file on the server is not the pinned one; nothing was kept.')


def hash_file(path: pathlib.Path) -> str:
  """The sha256 of a file, hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read(url: str, accept: str = '*/*') -> tuple[str, str, str]:
  """A small text resource: (text, content type, the address after redirections)."""
  with _open(url, {'Accept': accept}) as response:
    return response.read().decode(), response.headers.get('Content-Type', ''), response.geturl()


def _complete(url: str, part: pathlib.Path, size: int, retries: int, wait: float) -> str:
  """Appends to `part` until it has `size` bytes. Returns the sha256 of all of it."""
  bar = tqdm.tqdm(total=size, unit='B', unit_scale=True, desc=part.stem, disable=not sys.stderr.isatty(), leave=False)
  with bar:
    for attempt in range(retries + 1):
      try:
        return _append(url, part, size, bar)
      except (OSError, http.client.HTTPException) as error:
        permanent = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 416, 429)
        if permanent or attempt == retries:
          raise OSError(f'{part.stem}: {error or type(error).__name__}. What has arrived is kept; the same command '
                        f'continues there.') from error
        time.sleep(wait * 2**attempt)


def _append(url: str, part: pathlib.Path, size: int, bar: tqdm.tqdm) -> str:
  """One connection: the bytes that `part` lacks. Returns the sha256 of all of it; raises OSError if it ends early."""
  done = part.stat().st_size if part.exists() else 0
  if done > size:
    part.unlink()
    done = 0
  digest = hashlib.sha256()
  bar.reset(total=size)
  if done:
    with part.open('rb') as file:
      while block := file.read(CHUNK):
        digest.update(block)
    bar.update(done)
    if done == size:
      return digest.hexdigest()
  try:
    response = _open(url, {'Range': f'bytes={done}-'} if done else {})
  except urllib.error.HTTPError as error:
    if error.code == 416:  # the server has fewer bytes than we: start again
      part.unlink()
    raise
  with response, contextlib.ExitStack() as stack:
    if done and response.status != 206:  # a server without ranges sends all of it
      digest, done = hashlib.sha256(), 0
      bar.reset(total=size)
    file = stack.enter_context(part.open('ab' if done else 'wb'))
    while block := response.read(CHUNK):
      file.write(block)
      digest.update(block)
      bar.update(len(block))
      done += len(block)
      if done > size:
        return digest.hexdigest()
  if done < size:
    raise OSError(f'the connection ended after {done} of {size} bytes')
  return digest.hexdigest()


def _open(url: str, headers: dict[str, str]):
  """urlopen with proxies and certificates from the environment, and credentials from the address."""
  parts = urllib.parse.urlsplit(url)
  if parts.username:
    secret = f'{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or "")}'
    headers = {**headers, 'Authorization': 'Basic ' + base64.b64encode(secret.encode()).decode()}
    url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rsplit('@', 1)[1]))
  context = ssl.create_default_context()
  for name in CERTIFICATES:
    if os.path.isfile(os.environ.get(name, '')):
      context.load_verify_locations(os.environ[name])
  # identity: a server that compresses on the fly would change both the bytes and what Range means
  request = urllib.request.Request(url, headers={'User-Agent': 'mtjax', 'Accept-Encoding': 'identity', **headers})
  return urllib.request.urlopen(request, timeout=60, context=context)
