"""A few faults of each kind; ``python -m scripts.reliability`` has all of them, and counts them."""

import pytest

from tests.faults import malformed, outcomes


def check(cases):
    wrong = [case for case in cases if case.outcome not in outcomes.WANTED]
    assert not wrong, "\n".join(f"{case.fault}: {case.outcome}: {case.detail}" for case in wrong)


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_malformed_input_is_refused_in_one_line(kind, tmp_path):
    cases = list(malformed.campaign(kind, 10, tmp_path))
    assert len(cases) == 10
    check(cases)
