"""Context managers that end a process soon after a signal, whatever its threads do.

Python exits only after all threads have ended, and handles signals only between two bytecodes of the main thread: a
long call in C would keep a cancelled run alive for minutes. Whatever a run has committed is safe at any moment.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Time for the run to report its state to the server. Prefect itself kills a cancelled run after 30 s.
GRACE_S = 5.0


@contextmanager
def exit_on_signals(grace_s: float = GRACE_S) -> Iterator[None]:
    """Exit this process at most `grace_s` seconds after SIGTERM or Ctrl-C.

    Other signal handlers run first. Do nothing outside the main thread, which alone receives signals, or if an event
    loop handles them already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)

    def listen() -> None:
        while byte := os.read(read_end, 1):  # the number of the signal
            if byte[0] in (signal.SIGTERM, signal.SIGINT):
                time.sleep(grace_s)
                os._exit(128 + byte[0])
        os.close(read_end)

    threading.Thread(target=listen, name="exit-on-signals", daemon=True).start()
    try:
        yield
    finally:
        if before == -1:
            signal.set_wakeup_fd(-1)
        os.close(write_end)  # signals that are already in the pipe still count


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that temporary files are removed; do nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
