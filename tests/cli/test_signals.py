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
def test_signals_as_keyboard_interrupt_raises_like_ctrl_c(kind):
    assert signal.getsignal(kind) == signal.SIG_DFL

    def end():
        with signals_as_keyboard_interrupt():
            signal.raise_signal(kind)
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        end()
    assert signal.getsignal(kind) == signal.SIG_DFL


def test_signals_as_keyboard_interrupt_leaves_ignored_and_handled_signals():
    def handler(number, frame):
        raise AssertionError

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, handler)
    with signals_as_keyboard_interrupt():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_signal_handlers_in_another_thread_stay():
    seen = []

    def work():
        with signals_as_keyboard_interrupt(), stop_on_signals() as asked:
            seen.extend([asked(), *map(signal.getsignal, KINDS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, *[signal.SIG_DFL] * len(KINDS)]


@pytest.mark.parametrize("kind", [signal.SIGINT, *KINDS])
def test_stop_on_signals_only_reports_them(kind):
    before = signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL
    started_with = signal.signal(kind, before)  # a shell starts what is in the background with Ctrl-C ignored
    with stop_on_signals() as asked:
        assert not asked()
        signal.raise_signal(kind)
        signal.raise_signal(kind)  # and a second one breaks nothing off either
        assert asked()
    assert signal.getsignal(kind) == before
    signal.signal(kind, started_with)


def test_stop_on_signals_does_not_report_an_ignored_one():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as asked:
        signal.raise_signal(signal.SIGHUP)
        assert not asked()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
