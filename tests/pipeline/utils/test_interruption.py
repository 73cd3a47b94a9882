import os
import signal
import sys
import threading

import pytest

from pipeline.utils.errors import Stopped
from pipeline.utils.interruption import Interruption

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_signal_is_noted_and_announced_and_nothing_else_happens(number, capfd):
    with Interruption() as interruption:
        assert interruption.signal_number is None
        signal.raise_signal(number)
        assert interruption.signal_number == number
    assert capfd.readouterr().err == (
        f"\n{number.name}: finishing what is under way, then saving (Ctrl-C again stops at once)\n"
    )


def test_a_second_ctrl_c_stops_at_once():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.signal_number == signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_where_it_may_stop_at_once_a_signal_does(number, code):
    with Interruption() as interruption:
        with pytest.raises(Stopped) as caught, interruption.stop_immediately():
            signal.raise_signal(number)
        assert caught.value.exit_code == code
        assert str(caught.value) == (
            f"{number.name} after training; all of it is saved, and the same command does the rest"
        )
        assert interruption.signal_number == number


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_noted_before_such_a_part_stops_on_the_way_in(number, code):
    done = []
    with Interruption() as interruption:
        signal.raise_signal(number)
        with pytest.raises(Stopped) as caught, interruption.stop_immediately("before it began"):
            done.append("all of it")
        assert str(caught.value) == f"{number.name} before it began"
        assert caught.value.exit_code == code
    assert done == []


def test_handlers_are_put_back_even_after_an_error():
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(ValueError, match="broken"), Interruption():
        assert [signal.getsignal(number) for number in STOPS] != before
        raise ValueError("broken")
    assert [signal.getsignal(number) for number in STOPS] == before


def test_under_nohup_a_closed_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.signal_number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_caught_and_nothing_breaks():
    before = [signal.getsignal(number) for number in STOPS]
    calls = []

    def work():
        with Interruption() as interruption:
            calls.append(([signal.getsignal(number) for number in STOPS], interruption.signal_number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert calls == [(before, None)]


def test_the_announcement_does_not_touch_a_stream_that_the_interrupted_code_is_writing_to(monkeypatch):
    class Busy:
        def write(self, _):
            raise RuntimeError("reentrant call")

        flush = write

    monkeypatch.setattr(sys, "stderr", Busy())
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.signal_number == signal.SIGTERM
