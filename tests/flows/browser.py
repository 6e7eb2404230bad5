"""Headless Chromium for tests of pages: its DevTools protocol over two pipes, one page at a time, without a network."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_QUIET = ("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")
# Chromium reads from 3 and writes to 4, of which either may be taken here.
_WITH_PIPES = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]
for own, pipe in zip((3, 4), pipes):
    os.dup2(pipe, own)
os.execv(sys.argv[3], sys.argv[3:])
"""
_LOADED = "document.readyState === 'complete'"
WIDTH, HEIGHT = 390, 844  # of a telephone, in CSS pixels


class Tab:
    """A page that is open in the browser."""

    def __init__(self, read: int, write: int, downloads: Path) -> None:
        self._downloads = downloads
        self._read, self._write, self._session, self._number, self._buffer = read, write, "", 0, b""

    def send(self, method: str, **values: Any) -> Any:
        """Call a method, and return its result."""
        self.tell(method, **values)
        while True:
            while b"\0" not in self._buffer:
                more = os.read(self._read, 1 << 16)
                assert more, f"the browser ended before it answered {method}"
                self._buffer += more
            line, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def tell(self, method: str, **values: Any) -> None:
        """Call a method without waiting for its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session and not method.startswith(("Browser", "Target")):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")

    def open(self, page: Path) -> None:
        """Open a file as a telephone would that has no network."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self._downloads))
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Network.enable")
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.send("Network.emulateNetworkConditions", offline=True, **speed)
        self.send("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=2, mobile=True)
        self.send("Page.navigate", url=page.as_uri())
        self.run(f"new Promise((done) => {_LOADED} ? done(1) : addEventListener('load', () => done(1)))")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        how = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        found = self.send("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def type(self, element_id: str, text: str) -> None:
        """Type a text into a field."""
        self.run(f"document.getElementById('{element_id}').focus()")
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def save(self) -> Path:
        """Press the button that saves the CSV, and return the file."""
        self.run("document.getElementById('save').click()")
        for _ in range(300):
            for path in self._downloads.glob("*.csv"):
                return path
            time.sleep(0.1)
        raise AssertionError("no CSV came")


@contextmanager
def open_page(page: Path, folder: Path) -> Iterator[Tab]:
    """Open a page in a browser whose profile and downloads are in a folder; close the browser as people do."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    there, write = os.pipe()
    read, back = os.pipe()
    command = [browser, *_FLAGS, *_QUIET, f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_PIPES, str(there), str(back), *command],
        pass_fds=(there, back),
        stderr=subprocess.DEVNULL,
    )
    for end in (there, back):
        os.close(end)
    tab = Tab(read, write, folder / "downloads")
    try:
        tab.open(page)
        yield tab
        tab.tell("Browser.close")
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)
