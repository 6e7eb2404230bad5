"""The end of a process that was told to end: soon, whatever its threads are at.

Python ends a process only after all its threads, and looks at signals only between two steps of its main thread: a
long call in C keeps a cancelled run alive for minutes. Whatever a run has committed is safe at any moment, so nothing
speaks for waiting.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Time for whatever the run has to say to the server. Prefect itself kills a cancelled run after 30 s.
GRACE_S = 5.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ended_by_signals(grace_s: float = GRACE_S) -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C end this process after at most `grace_s` seconds.

    What handlers there are do their work first. Does nothing outside the main thread, which alone hears signals, or
    where an event loop listens to them already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
    threading.Thread(target=_listen, args=(told, grace_s), name="ended-by-signals", daemon=True).start()
    try:
        yield
    finally:
        if before == -1:
            signal.set_wakeup_fd(-1)
        os.close(tell)  # what was told before is still heard


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """While inside, SIGTERM is heard as Ctrl-C is, so that temporary files are removed; for the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(told: int, grace_s: float) -> None:
    while byte := os.read(told, 1):
        if byte[0] in _ENDING:
            time.sleep(grace_s)
            os._exit(128 + byte[0])
    os.close(told)
