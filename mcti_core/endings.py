"""The ways in which a system ends a command, made one: a chance to put away what is in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["like_ctrl_c"]


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM (``kill``, a shutdown) and SIGHUP (a terminal that is closed) raise ``KeyboardInterrupt``, as Ctrl-C does.

    One that is ignored stays so, as under ``nohup``. Outside of the main thread nothing can be changed, and nothing is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    plain = [kind for kind in map(signal.Signals.__getitem__, names) if signal.getsignal(kind) == signal.SIG_DFL]
    try:
        for kind in plain:
            signal.signal(kind, signal.default_int_handler)
        yield
    finally:
        for kind in plain:
            signal.signal(kind, signal.SIG_DFL)
