"""Processes that are told to end while they are deep in a call in C, or wait for their threads."""

import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import hashlib, sys, threading, time
from flows.signals import exit_on_signals
def say():
    sys.stdout.write("stuck\\n")
    sys.stdout.flush()
def stuck():
    threading.Timer(0.3, say).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def interrupted(code: str) -> int:
    """The exit status of a program that gets Ctrl-C once it says that it is stuck."""
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            process.send_signal(signal.SIGINT)
            return process.wait(30)
        finally:
            process.kill()


@pytest.mark.parametrize(
    "code",
    [
        """
        with exit_on_signals(0.1):
            stuck()
        """,
        """
        with exit_on_signals(0.1):
            threading.Thread(target=stuck).start()
            time.sleep(1000)
        """,
    ],
    ids=["main thread", "another thread"],
)
def test_a_process_ends_whatever_it_is_at(code: str) -> None:
    assert interrupted(code) == 128 + signal.SIGINT


def test_the_programs_own_handling_comes_first() -> None:
    code = """
    try:
        with exit_on_signals(20):
            say()
            time.sleep(1000)
    except KeyboardInterrupt:
        sys.exit(7)
    """
    assert interrupted(code) == 7


def test_outside_the_main_thread_it_does_nothing() -> None:
    code = """
    def inside():
        with exit_on_signals(0.1):
            say()
            time.sleep(1)
    thread = threading.Thread(target=inside)
    try:
        thread.start()
        thread.join()
    except KeyboardInterrupt:
        thread.join()
        sys.exit(7)
    """
    assert interrupted(code) == 7
