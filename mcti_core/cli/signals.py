"""Turn SIGTERM and SIGHUP into KeyboardInterrupt so that a run can save before it exits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["signals_as_keyboard_interrupt", "stop_on_signals"]


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """SIGTERM (``kill``, a shutdown) and SIGHUP (a terminal that is closed) raise ``KeyboardInterrupt``, as Ctrl-C does.

    One that is ignored stays so, as under ``nohup``. Outside of the main thread nothing can be changed, and nothing is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    plain = _unhandled("SIGTERM", "SIGHUP")
    try:
        for kind in plain:
            signal.signal(kind, signal.default_int_handler)
        yield
    finally:
        for kind in plain:
            signal.signal(kind, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Context in which Ctrl-C, SIGTERM and SIGHUP do not interrupt; the yielded function says whether one has arrived.

    For processes that work together: if one stopped in the middle of a step, the others would wait for it.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    kinds = _unhandled("SIGINT", "SIGTERM", "SIGHUP")
    before = {kind: signal.signal(kind, lambda number, frame: asked.append(number)) for kind in kinds}
    try:
        yield lambda: bool(asked)
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)


def _unhandled(*names: str) -> list[signal.Signals]:
    """The signals among ``names`` that this system has and that still have Python's default handlers."""
    plain = (signal.SIG_DFL, signal.default_int_handler)
    kinds = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [kind for kind in kinds if signal.getsignal(kind) in plain]
