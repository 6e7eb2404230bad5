"""Progress of long work with the time left: one line in place on a terminal, log lines elsewhere."""

import logging
import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from data_catalog.base.plain_text import text_width
from data_catalog.base.progress import Progress, lines_above_progress

COLUMNS = 80


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A terminal as standard error."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, COLUMNS))
        self.stream = os.fdopen(self.slave, "w", encoding="utf-8")
        self.rows, self._column = [""], 0

    def screen(self) -> list[str]:
        """The rows that are to be seen, as an emulator without escape sequences would show them."""
        os.write(self.slave, b"\a")  # the kernel passes on what was written before it, but not at once
        text = ""
        while not text.endswith("\a"):
            text += os.read(self.master, 1 << 16).decode()
        for char in text[:-1]:
            if char == "\r":
                self._column = 0
            elif char == "\n":
                self.rows.append("")
            else:
                assert char.isprintable(), f"{char!r} of {text!r}"
                row = self.rows[-1].ljust(self._column)
                self.rows[-1] = row[: self._column] + char + row[self._column + 1 :]
                self._column += 1
        assert max(map(text_width, self.rows)) < COLUMNS
        return [row.rstrip() for row in self.rows]


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """`open_terminal()`, called in the test itself, since pytest replaces standard error when a test begins."""
    with ExitStack() as closing:

        def make() -> Terminal:
            found = Terminal()
            closing.callback(os.close, found.master)
            closing.callback(found.stream.close)
            monkeypatch.setattr(sys, "stderr", found.stream)
            return found

        yield make


def test_a_terminal_shows_one_line_in_place_with_a_bar_and_the_time_left(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    clock = Clock()
    with Progress("train", total=300, unit="steps", clock=clock) as progress:
        assert terminal.screen() == ["train [..........] 0 of 300 steps"]
        for _ in range(2):
            clock.now += 0.5
            progress.advance(epoch=1)
            assert "left" not in terminal.screen()[0], "too early to tell"
        for _ in range(148):
            clock.now += 0.5
            progress.advance(epoch=2, loss="3.211")
        assert terminal.screen() == ["train [#####.....] 1 min 20 s left, 150 of 300 steps, 2 steps/s, epoch 2"]
    assert terminal.screen() == [""], "nothing stays but what is logged"


def test_log_lines_and_errors_stand_above_the_line(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    clock = Clock()
    with lines_above_progress():
        logger = logging.Logger("command")
        logger.addHandler(logging.StreamHandler(sys.stderr))
        with Progress("fetch", total=2, unit="images", clock=clock) as progress:
            logger.warning("a host is slow")
            clock.now += 1
            progress.advance()
            sys.stderr.write("two\nlines\n")
            assert terminal.screen() == [
                "a host is slow",
                "two",
                "lines",
                "fetch [#####.....] 1 of 2 images, 1 images/s",
            ]
            begun = Progress("of a thread that goes on", total=1, unit="images", clock=clock).__enter__()
            sys.stderr.write("interrupted\n")
    begun.advance()
    assert terminal.screen() == ["a host is slow", "two", "lines", "interrupted", ""]
    assert sys.stderr is terminal.stream
    begun.__exit__(None, None, None)


def test_a_log_gets_lines_at_growing_intervals_each_with_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with Progress("download a.zip", total=7 * 10**8, unit="bytes", clock=clock) as progress:
        for _ in range(700):
            clock.now += 1
            progress.advance(10**6)
    assert caplog.messages[0] == "download a.zip: 12 min left, 10.0 of 700.0 MB, 1 MB/s"
    assert [int(float(*re.findall(r"([\d.]+) of", line))) for line in caplog.messages] == [
        10,
        30,
        70,
        150,
        310,
        630,
        700,
    ]
    assert caplog.messages[-1] == "download a.zip: 700.0 of 700.0 MB, 1 MB/s, took 12 min"
    caplog.clear()
    with Progress("encode images", total=2, unit="images", clock=clock) as progress:
        progress.advance(2)
    assert caplog.messages == [], "what is short is not worth a line"


def test_the_line_of_an_epoch_has_the_time_left_and_stands_for_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with Progress("train", total=40, unit="steps", clock=clock) as progress:
        for epoch in range(10):
            with Progress("compare captions", total=1, unit="captions", clock=clock) as compare:
                compare.advance()
            for _ in range(4):
                clock.now += 1
                progress.advance()
            progress.say("epoch %d: loss %.1f", epoch + 1, 2.5)
    first, *others, last, end = caplog.messages
    assert first == "epoch 1: loss 2.5, 36 s left"
    assert (len(others), last) == (8, "epoch 10: loss 2.5")
    assert end == "train: 40 of 40 steps, 1 steps/s, took 40 s"


def test_the_time_left_knows_what_an_earlier_run_did_and_trusts_later_units_more() -> None:
    clock = Clock()
    with Progress("train", total=1_000, unit="steps", initial=900, clock=clock) as resumed:
        for _ in range(10):
            clock.now += 1
            resumed.advance()
        assert resumed.time_left == "1 min 30 s left"
    with Progress("train", total=161, unit="steps", clock=clock) as slow_start:
        clock.now += 60
        slow_start.advance()
        for _ in range(60):
            clock.now += 1
            slow_start.advance()
        assert slow_start.time_left == "2 min 10 s left", "by the plain mean: 3 min 20 s"
    with Progress("train", total=615, unit="steps", clock=clock) as validated:
        for _ in range(15):
            clock.now += 0.2
            validated.advance()
        clock.now += 17
        assert validated.time_left == "13 min left", "once: 1 h 20 min"
