"""Fixtures of the tests of sweeps."""

import pytest

from tests.experiments.runs import ROOT
from tests.experiments.sweeping.stand_ins import load


@pytest.fixture
def here(monkeypatch):
    """Config files are named from the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def two_points(tmp_path, here):
    return load(tmp_path, [{"seed": 0}, {"seed": 1}])
