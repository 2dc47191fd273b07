"""Where the packages' files are, asked of the machine's own clients: pip, npm and apt-get.

No registry's address stands in this file, so mirrors, proxies and private indexes work as the clients are configured.
The clients are asked for addresses only; they install nothing and run no package's code.
"""
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

from mtjax.data import _download

APT = 'apt (it comes with Debian and Ubuntu)'
SIMPLE = 'application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1'


class MissingClient(RuntimeError):
  """A registry's client is not installed here."""


def resolve(registry: str, package: str, version: str, file: str, workdir: pathlib.Path) -> str:
  """The address of one file of a pinned package.

  Args:
    registry: 'pypi', 'npm' or 'debian'.
    package: its name there.
    version: the pinned version.
    file: the file's name (PyPI has several files a version).
    workdir: a folder for private apt lists, should the system have none.
  """
  if registry == 'pypi':
    return _pypi(package, file)
  if registry == 'npm':
    return _run('npm', 'view', f'{package}@{version}', 'dist.tarball', install='Node.js (it brings npm)').strip()
  if registry == 'debian':
    return _debian(f'{package}={version}', workdir)
  raise ValueError(f'Unknown registry {registry!r}. Known: debian, npm, pypi.')


def apt(folder: pathlib.Path, languages: tuple[str, ...] = ()) -> dict[str, str]:
  """Runs `apt-get update` into a private folder; the system's own lists stay as they are.

  apt verifies every index against the archive's signed Release file. Needs no root.

  Args:
    folder: where lists and caches go.
    languages: translated descriptions to bring along, e.g. ('en', 'de').

  Returns:
    the environment in which apt-get uses these lists.
  """
  lists, cache, parts = folder / 'lists', folder / 'cache', folder / 'parts'
  for path in (lists / 'partial', cache / 'archives' / 'partial', parts):
    path.mkdir(parents=True, exist_ok=True)
  settings = _run('apt-config', 'shell', 'PARTS', 'Dir::Etc::parts/d', install=APT)
  system = pathlib.Path(settings.strip().partition('=')[2].strip("'"))
  for path in sorted(system.glob('*')):
    text = path.read_text(errors='replace')
    # container images switch translations off, keep lists compressed, run hooks after an update: not for us
    if not any(word in text for word in ('Languages', 'GzipIndexes', 'Invoke')):
      (parts / path.name).write_text(text)
  config = folder / 'apt.conf'
  quoted = ' '.join(f'"{language}";' for language in languages or ('none',))
  config.write_text(
    f'#clear Acquire::Languages;\nAcquire::Languages {{ {quoted} }};\n'
    f'#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n'
    f'Dir::State::lists "{lists}";\nDir::Cache "{cache}";\nDir::Etc::parts "{parts}";\n'
    f'APT::Sandbox::User "root";\nAcquire::GzipIndexes "false";\n')
  environment = {**os.environ, 'APT_CONFIG': str(config)}
  _run('apt-get', 'update', env=environment, install=APT)
  return environment


def _debian(package: str, workdir: pathlib.Path) -> str:
  arguments = ('apt-get', 'download', '--print-uris', package)
  try:
    answer = _run(*arguments, install=APT)
  except subprocess.CalledProcessError:  # images often ship without package lists
    answer = _run(*arguments, env=apt(workdir / 'apt'), install=APT)
  found = re.search(r"^'([^']+)'", answer, re.M)
  if not found:
    raise LookupError(f'apt-get names no address for {package}. It said: {answer.strip()!r}')
  return found.group(1)


def _pypi(package: str, file: str) -> str:
  """PEP 691 (JSON), or PEP 503 (HTML) where an index knows no better."""
  name = re.sub(r'[-_.]+', '-', package).lower()
  problems = []
  for index in pip_indexes():
    address = f'{index.rstrip("/")}/{name}/'
    try:
      text, kind, base = _download.read(address, SIMPLE)
    except OSError as error:
      problems.append(f'{_without_password(address)}: {error}')
      continue
    links = {f['filename']: f['url'] for f in json.loads(text)['files']} if 'json' in kind else _links(text)
    if file in links:
      return _same_login(urllib.parse.urljoin(base, links[file]), index)
    problems.append(f'{_without_password(address)}: has no {file}')
  raise LookupError(f'pip\'s index does not offer {file}. ' + '; '.join(problems))


def pip_indexes() -> list[str]:
  """The package indexes that pip is configured with (environment, then files, then pip's own default)."""
  found: dict[str, str] = {}
  listing = _run(sys.executable, '-m', 'pip', 'config', 'list', install='pip (python -m ensurepip)')
  for line in listing.splitlines():
    key, _, value = line.partition('=')
    where, _, option = key.strip().rpartition('.')
    rank = {':env:': 0, 'install': 1, 'global': 2}.get(where, 3)
    if option in ('index-url', 'extra-index-url') and rank < 3:
      found.setdefault(f'{option} {rank}', value.strip().strip('\'"'))

  def first(option: str) -> str:
    return next((found[key] for key in sorted(found) if key.startswith(option + ' ')), '')

  index = first('index-url')
  if not index:
    code = 'import pip._internal.models.index as index; print(index.PyPI.simple_url)'
    index = _run(sys.executable, '-c', code, install='pip (python -m ensurepip)').strip()
  return [index, *first('extra-index-url').replace('\\n', ' ').split()]


def _links(page: str) -> dict[str, str]:
  """{file name: href} of an HTML index page."""
  links = {}

  class Parser(html.parser.HTMLParser):
    """Collects the links."""

    def handle_starttag(self, tag, attrs):
      href = dict(attrs).get('href')
      if tag == 'a' and href:
        name = urllib.parse.unquote(urllib.parse.urlsplit(href).path.rsplit('/', 1)[-1])
        links[name] = href

  Parser().feed(page)
  return links


def _same_login(url: str, index: str) -> str:
  """Carries user:password@ of the index over to a file on the same host."""
  a, b = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
  if b.username and not a.username and a.hostname == b.hostname:
    return urllib.parse.urlunsplit(a._replace(netloc=b.netloc))
  return url


def _without_password(url: str) -> str:
  parts = urllib.parse.urlsplit(url)
  return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rsplit('@', 1)[-1]))


def _run(*command: str, install: str, env: dict[str, str] | None = None) -> str:
  """The standard output of a client. Raises MissingClient, or CalledProcessError with what it wrote to stderr."""
  if not shutil.which(command[0]):
    raise MissingClient(f'{command[0]} is not installed. Install {install}.')
  done = subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
  if done.returncode:
    error = subprocess.CalledProcessError(done.returncode, command[:3], done.stdout, done.stderr)
    error.add_note(done.stderr.strip()[-2000:])
    raise error
  return done.stdout
