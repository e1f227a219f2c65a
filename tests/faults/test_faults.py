"""A few faults of each kind; ``python -m scripts.reliability`` has all of them, and counts them."""

import pytest

from tests.faults import folders, malformed, outcomes


def check(cases):
    wrong = [case for case in cases if case.outcome not in outcomes.WANTED]
    assert not wrong, "\n".join(f"{case.fault}: {case.outcome}: {case.detail}" for case in wrong)


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_malformed_input_is_refused_in_one_line(kind, tmp_path):
    cases = list(malformed.campaign(kind, 10, tmp_path))
    assert len(cases) == 10
    check(cases)


@pytest.mark.parametrize("number", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_damage_to_a_folder_is_repaired_or_named(number, tmp_path):
    cases = list(folders.campaign(number, tmp_path))
    assert len(cases) == 3 * number
    check(cases)
