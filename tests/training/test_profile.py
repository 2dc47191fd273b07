"""Traces of some steps, written where the config says."""
import jax
import pytest
import toy

from mtjax import experiment
from mtjax.training.profile import Trace, check_profile


def traces(folder):
  return sorted(folder.glob('profile/**/*.xplane.pb'))


def test_a_window_is_traced_and_may_be_asked_for_later(tmp_path):
  run = experiment.build(toy.config(steps=6), tmp_path)
  run.train(run.init())
  assert not (tmp_path / 'profile').exists()
  again = experiment.build(toy.config(steps=6, profile=dict(start=2, steps=3)), tmp_path)  # finished: nothing to trace
  again.train(again.init())
  assert not traces(tmp_path)
  fresh = experiment.build(toy.config(steps=6, profile=dict(start=4, steps=2)), tmp_path / 'fresh')
  fresh.train(fresh.init())
  (file,) = traces(tmp_path / 'fresh')
  assert file.stat().st_size > 0


@pytest.mark.parametrize('seen, begins, ends', [(range(0, 9), 3, 5), (range(4, 9), 4, 5), (range(5, 9), None, None)])
def test_the_window_is_left_open_closed(seen, begins, ends, tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
  found = {}
  with Trace(dict(start=3, steps=2), tmp_path) as trace:
    for done in seen:
      if trace.at(done, None):
        found[calls[-1]] = done
  assert (found.get('start'), found.get('stop')) == (begins, ends)


def test_a_run_that_ends_within_the_window_ends_the_trace(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', calls.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(KeyboardInterrupt), Trace(dict(start=0, steps=5), tmp_path) as trace:
    trace.at(0, None)
    raise KeyboardInterrupt
  assert calls == [str(tmp_path / 'profile' / 'host_0'), 'stop']  # of two hosts each has a folder


@pytest.mark.parametrize('spec, words', [
  (dict(start=-1, steps=2), "'profile.start' must be a whole number >= 0, got -1"),
  (dict(start=1, steps=0), "'profile.steps' must be a whole number >= 1, got 0"),
  (dict(start=1), "'profile.steps' must be a whole number >= 1, got None"),
  (dict(start=True, steps=1), "'profile.start' must be a whole number >= 0, got True"),
  (dict(start=10, steps=3), "ends behind the last of the run's 12 steps"),
  (dict(begin=1), "Unknown config key 'profile.begin'"),
  (5, "'profile' must be a dict"),
])
def test_nonsense_is_an_error(spec, words):
  with pytest.raises(ValueError, match=words):
    check_profile(spec, 12)


def test_a_profile_needs_a_folder_and_a_window_within_the_run():
  with pytest.raises(ValueError, match="'profile' writes into the run's workdir"):
    run = experiment.build(toy.config(profile=dict(start=1, steps=1)))
    run.train(run.init())
  with pytest.raises(ValueError, match="'profile' .* ends behind"):
    experiment.build(toy.config(profile=dict(start=11, steps=2)))
