"""A few faults of each kind; ``python -m scripts.reliability`` has all of them, and counts them."""

import signal

import pytest

from experiments.storage.errors import RecordError
from tests.faults import disks, folders, kills, malformed, outcomes

SLOW = pytest.mark.slow


def check(cases):
    wrong = [case for case in cases if case.outcome not in outcomes.WANTED]
    assert not wrong, "\n".join(f"{case.fault}: {case.outcome}: {case.detail}" for case in wrong)


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_malformed_input_is_refused_in_one_line(kind, tmp_path):
    cases = list(malformed.campaign(kind, 10, tmp_path))
    assert len(cases) == 10
    check(cases)


@pytest.mark.parametrize("number", [3, pytest.param(100, marks=SLOW)])
def test_damage_to_a_folder_is_repaired_or_named(number, tmp_path):
    cases = list(folders.campaign(number, tmp_path))
    assert len(cases) == 3 * number
    check(cases)


@pytest.mark.parametrize(
    ("moments", "left"),
    [(("middle",), (20_480,)), pytest.param(disks.MOMENTS, disks.LEFT, marks=SLOW)],
)
def test_a_disk_that_does_not_serve_is_named_and_nothing_is_lost(moments, left, tmp_path):
    try:
        cases = list(disks.campaign(tmp_path, moments, left))
    except disks.CannotMount as error:
        pytest.skip(str(error))
    assert len(cases) >= 2
    check(cases)


@SLOW
def test_a_signal_at_any_moment_leads_to_the_same_end(tmp_path):
    numbers = {signal.SIGKILL: 3, signal.SIGTERM: 3, signal.SIGINT: 3}
    cases = list(kills.campaign(numbers, tmp_path))
    assert len(cases) == 9
    check(cases)


def test_what_is_wrong_is_counted_as_wrong():
    """The judge of all campaigns can fail."""

    def hang():
        while True:
            pass

    def raises(error):
        raise error

    told = {
        outcomes.Outcome.HELD: lambda: None,
        outcomes.Outcome.REFUSED: lambda: raises(RecordError("config.json is damaged")),
        outcomes.Outcome.TRACEBACK: lambda: raises(KeyError("seed")),
        outcomes.Outcome.HANG: hang,
        outcomes.Outcome.WRONG: lambda: "another result",
    }
    for outcome, attempt in told.items():
        assert outcomes.judge(attempt, seconds=1)[0] is outcome
    assert outcomes.of_exit("error: two\nlines")[0] is outcomes.Outcome.TRACEBACK
    assert outcomes.of_exit("no such field")[0] is outcomes.Outcome.TRACEBACK
    assert outcomes.of_exit("error: x" + "x" * 1_000)[0] is outcomes.Outcome.TRACEBACK
    assert outcomes.of_exit(1)[0] is outcomes.Outcome.WRONG
    rows = outcomes.counts([outcomes.Case("a", "b", outcome) for outcome in outcomes.Outcome])
    assert "| all |  | 5 | 1 | 1 | 1 | 1 | 1 |" in outcomes.table(rows)
