"""Runs of these tests leave out their figures, half the time of a short run, unless one asks."""

from unittest import mock

import pytest

from experiments import figures

_draw_run = figures.draw_run


@pytest.fixture(scope="session", autouse=True)
def undrawn():
    with mock.patch.object(figures, "draw_run"):
        yield


@pytest.fixture
def drawn():
    """Runs in this process draw their figures."""
    with mock.patch.object(figures, "draw_run", _draw_run):
        yield
