"""Turn SIGTERM and SIGHUP into KeyboardInterrupt so that a run can save before it exits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

__all__ = ["signals_as_keyboard_interrupt", "stop_on_signals"]


def signals_as_keyboard_interrupt() -> AbstractContextManager[None]:
    """SIGTERM (``kill``, a shutdown) and SIGHUP (a terminal that is closed) raise ``KeyboardInterrupt``, as Ctrl-C does.

    One that is ignored stays so, as under ``nohup``. Outside of the main thread nothing can be changed, and nothing is.
    """
    return _handled_by(signal.default_int_handler, "SIGTERM", "SIGHUP")


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Context in which Ctrl-C, SIGTERM and SIGHUP do not interrupt; the yielded function says whether one has arrived.

    For processes that work together: if one stopped in the middle of a step, the others would wait for it.
    """
    arrived: list[int] = []
    with _handled_by(lambda number, frame: arrived.append(number), "SIGINT", "SIGTERM", "SIGHUP"):
        yield lambda: bool(arrived)


@contextmanager
def _handled_by(handler: Callable[[int, Any], object], *names: str) -> Iterator[None]:
    """Handle the signals that this system has and that still have Python's default handlers."""
    plain = (signal.SIG_DFL, signal.default_int_handler)
    changeable = threading.current_thread() is threading.main_thread()
    kinds = [signal.Signals[name] for name in names if changeable and hasattr(signal, name)]
    before = {kind: signal.getsignal(kind) for kind in kinds if signal.getsignal(kind) in plain}
    try:
        for kind in before:
            signal.signal(kind, handler)
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)
