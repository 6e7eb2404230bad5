"""Progress of long work with the time left: one line in place on a terminal, log lines elsewhere."""

import logging
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from data_catalog.base.plain_text import text_width
from data_catalog.base.progress import Progress, lines_above_progress, span_text

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


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log lines of a command whose standard error is no terminal."""
    caplog.set_level(logging.INFO)
    return caplog


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


def test_work_inside_and_beside_other_work_shares_the_line(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    clock = Clock()
    with Progress("build", total=4, unit="steps", seconds_left=lambda: 7_200.0, clock=clock) as build:
        build.advance()
        ended, begun = threading.Event(), threading.Event()

        def fetch() -> None:
            with Progress("fetch", total=10, unit="images", clock=clock) as progress:
                begun.set()
                ended.wait()
                progress.advance()

        with Progress("translate", total=2_000, unit="captions", clock=clock) as translate:
            for _ in range(3):
                clock.now += 1
                translate.advance(100)
            assert terminal.screen() == ["build 25%, 2 h 0 min left | translate [#.........] 17 s left"]
            thread = threading.Thread(target=fetch)
            thread.start()
            begun.wait()
            clock.now += 1
            build.advance()
            assert terminal.screen() == ["build 50%, 2 h 0 min left | fetch [..........] 0 of 10 images"]
            ended.set()
            thread.join()
            assert "translate [#" in terminal.screen()[0]
        assert terminal.screen() == ["build [#####.....] 2 h 0 min left, 2 of 4 steps"]


def test_a_long_name_is_cut_and_shows_no_control_characters(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    with Progress("download \x1b[2J" + "\u732b" * 60, total=10**9, unit="bytes", clock=Clock()):
        assert terminal.screen()[0].startswith("download \\x1b[2J\u732b\u732b")
        assert "[" not in terminal.screen()[0][14:], "the bar has no room"


def test_a_log_gets_lines_at_growing_intervals_each_with_the_time_left(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with Progress("download a.zip", total=7 * 10**8, unit="bytes", clock=clock) as progress:
        for _ in range(700):
            clock.now += 1
            progress.advance(10**6)
    assert told.messages[0] == "download a.zip: 12 min left, 10.0 of 700.0 MB, 1 MB/s"
    assert [int(float(*re.findall(r"([\d.]+) of", line))) for line in told.messages] == [10, 30, 70, 150, 310, 630, 700]
    assert told.messages[-1] == "download a.zip: 700.0 of 700.0 MB, 1 MB/s, took 12 min"
    told.clear()
    with Progress("encode images", total=2, unit="images", clock=clock) as progress:
        progress.advance(2)
    assert told.messages == [], "what is short is not worth a line"


def test_the_line_of_an_epoch_has_the_time_left_and_stands_for_the_others(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with Progress("train", total=40, unit="steps", clock=clock) as progress:
        for epoch in range(10):
            with Progress("compare captions", total=1, unit="captions", clock=clock) as compare:
                compare.advance()
            for _ in range(4):
                clock.now += 1
                progress.advance()
            progress.say("epoch %d: loss %.1f", epoch + 1, 2.5)
    first, *others, last, end = told.messages
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (131, "2 min 10 s"), (599, "10 min")),
        *((12_000, "3 h 20 min"), (180_000, "2 days 2 h")),
    ],
)
def test_a_time_span_reads_plainly(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
