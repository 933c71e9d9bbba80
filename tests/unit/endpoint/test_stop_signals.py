"""A signal cuts a call, wherever in it the signal comes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from parsl_globus.endpoint.multiuser.stop_signals import StoppedError, StopSignals

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
DEADLINE_S = 60


@pytest.fixture
def told():
    return []


@pytest.fixture
def signals(told):
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signals = StopSignals(lambda: told.append(True))
    signals.install()
    yield signals
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    for number, handler in before.items():
        signal.signal(number, handler)


def terminate_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # handlers run between two instructions
        pass


def test_a_call_is_cut(signals, told):
    with pytest.raises(StoppedError), signals.cut():
        terminate_self()
        time.sleep(DEADLINE_S)
    assert told == [True]


def test_no_call_begins_after_a_signal(signals):
    terminate_self()
    with pytest.raises(StoppedError), signals.cut():
        pytest.fail("it has begun")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_gets_lost_in_a_destructor_is_raised_again(signals):
    class Deleted:
        def __del__(self) -> None:
            terminate_self()

    passed = []
    began_s = time.monotonic()
    with pytest.raises(StoppedError), signals.cut():
        Deleted()
        passed.append(True)
        time.sleep(DEADLINE_S)
    assert passed, "it was not lost, so this test sees nothing"
    assert time.monotonic() - began_s < DEADLINE_S


def test_what_is_tidied_up_on_the_way_out_is_not_cut(signals):
    tidied = []
    with pytest.raises(StoppedError), signals.cut():
        try:
            terminate_self()
        finally:
            terminate_self()
            tidied.append(True)
    assert tidied


def test_a_call_that_has_ended_is_not_cut(signals, told):
    with signals.cut():
        pass
    terminate_self()
    assert told == [True]
