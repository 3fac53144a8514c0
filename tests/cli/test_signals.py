import os
import signal
import threading

import pytest

from mcti_core.cli.signals import signals_as_keyboard_interrupt, stop_on_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
KINDS = [signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else []


@pytest.fixture(autouse=True)
def as_a_fresh_process():
    """Who runs the tests may ignore hang-ups, as nohup does."""
    before = {kind: signal.signal(kind, signal.SIG_DFL) for kind in KINDS}
    yield
    for kind, old in before.items():
        signal.signal(kind, old)


@pytest.mark.parametrize("kind", KINDS)
def test_they_end_a_block_as_ctrl_c_does(kind):
    assert signal.getsignal(kind) == signal.SIG_DFL

    def end():
        with signals_as_keyboard_interrupt():
            signal.raise_signal(kind)
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        end()
    assert signal.getsignal(kind) == signal.SIG_DFL


def test_one_that_is_ignored_or_handled_stays_so():
    def handler(number, frame):
        raise AssertionError

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, handler)
    with signals_as_keyboard_interrupt():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_in_another_thread_nothing_changes():
    seen = []

    def work():
        with signals_as_keyboard_interrupt(), stop_on_signals() as asked:
            seen.extend([asked(), *map(signal.getsignal, KINDS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, *[signal.SIG_DFL] * len(KINDS)]


@pytest.mark.parametrize("kind", [signal.SIGINT, *KINDS])
def test_for_processes_that_work_together_they_only_leave_word(kind):
    before = signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL
    started_with = signal.signal(kind, before)  # a shell starts what is in the background with Ctrl-C ignored
    with stop_on_signals() as asked:
        assert not asked()
        signal.raise_signal(kind)
        signal.raise_signal(kind)  # and a second one breaks nothing off either
        assert asked()
    assert signal.getsignal(kind) == before
    signal.signal(kind, started_with)


def test_one_that_is_ignored_leaves_no_word():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as asked:
        signal.raise_signal(signal.SIGHUP)
        assert not asked()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
