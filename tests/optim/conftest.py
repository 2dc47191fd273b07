"""Shared by the tests of updates."""
import jax
import pytest


@pytest.fixture
def x64():
  """Float64 for the time of a test."""
  with jax.enable_x64(True):
    yield
