"""What a command says while it works."""

import time

from absl import flags

from experiments.running import command_line, terminal


def test_a_wait_is_reported_when_it_takes_long_and_not_else(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_SECONDS_IN_SILENCE", 0.05)
    with terminal.waiting("blinking"):
        pass
    with terminal.waiting("compiling"):
        time.sleep(0.5)
    time.sleep(0.1)
    assert capsys.readouterr().err == "compiling ...\n"


def test_progress_tells_the_time_that_is_left_by_the_units_after_the_first(monkeypatch, capsys):
    """The first one compiles what the others share."""
    clock = iter((0.0, 30.0, 35.0, 50.0, 70.0))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    progress = terminal.Progress(2, 6, "estimator")
    progress.show(3, {"last": "rloo"})
    progress.show(4, {})  # too soon for another line
    progress.show(5, {"last": "nvil"})
    progress.show(6, {"last": "exact"})
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "estimator 3/6  last rloo",
        "estimator 5/6  last nvil  00:10 left",
        "estimator 6/6  last exact  00:00 left",
    ]


def test_quick_changes_flags_that_are_not_given(monkeypatch):
    known = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", known)
    monkeypatch.setattr(command_line, "_QUICK", {})
    flags.DEFINE_integer("draws_of_test", 100, "Draws.", flag_values=known)
    flags.DEFINE_integer("seeds_of_test", 7, "Seeds.", flag_values=known)
    define = flags.DEFINE_bool
    monkeypatch.setattr(flags, "DEFINE_bool", lambda *a: define(*a, flag_values=known))
    command_line.define_quick(draws_of_test=10, seeds_of_test=2)
    assert "--draws_of_test=10 --seeds_of_test=2" in known["quick"].help
    command_line._parse(["program", "--quick", "--seeds_of_test=3"])
    assert (known.draws_of_test, known.seeds_of_test) == (10, 3)
