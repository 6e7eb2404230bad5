"""A headless Chromium, driven by its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_QUIET = ("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0")
WAIT_S = 60.0
WIDTH, HEIGHT = 390, 844  # of a telephone, in CSS pixels


class Page:
    """A page of the browser, with what it requested and what its console said."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.url = ""  # of the site, for who sets it
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol."""
        number = self.tell(method, **parameters)
        while True:
            heard = json.loads(self._socket.recv(timeout=WAIT_S))
            if heard.get("id") == number:
                assert "error" not in heard, heard["error"]
                found: dict[str, Any] = heard["result"]
                return found
            self._note(heard)

    def tell(self, method: str, **parameters: Any) -> int:
        """Send a command without waiting for its result; return its number."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return number

    def _note(self, heard: dict[str, Any]) -> None:
        said = heard.get("params", {})
        if heard["method"] == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        if heard["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.problems.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        if heard["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(said["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=url)

    def open_on_telephone(self, page: Path) -> None:
        """Open a file as a telephone without a network would; wait until it is loaded."""
        self.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        self.send("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=2, mobile=True)
        self.open(page.as_uri())
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")

    def ask(self, script: str) -> Any:
        """Return the value of an expression, once its promise is kept."""
        found = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + WAIT_S
        while not self.ask(f"Boolean({condition})"):
            assert time.monotonic() < end, (
                f"{condition} is never true: {self.problems}, {self.ask('document.body.innerText')}"
            )
            time.sleep(0.02)

    def type(self, element_id: str, text: str) -> None:
        """Type a text into a field."""
        self.ask(f"document.getElementById('{element_id}').focus()")
        self.send("Input.insertText", text=text)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key."""
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **values)
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def save(self, downloads: Path) -> Path:
        """Press the button that saves the CSV, and return the file."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.ask("document.getElementById('save').click()")
        end = time.monotonic() + WAIT_S
        while not (found := list(downloads.glob("*.csv"))):
            assert time.monotonic() < end, "no CSV came"
            time.sleep(0.02)
        return found[0]

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def open_browser(profile: Path, *flags: str) -> Iterator[Page]:
    """Yield an empty page of a new browser; skip the test where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    command = [program, *_FLAGS, *_QUIET, f"--user-data-dir={profile}", *flags, "about:blank"]
    ready = profile / "DevToolsActivePort"
    ready.unlink(missing_ok=True)  # of an earlier browser with this profile
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + WAIT_S
        while not (ready.is_file() and ready.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.02)
        port = ready.read_text().split("\n")[0]
        (page, *_) = [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            page = Page(socket)
            yield page
            page.tell("Browser.close")  # as people do: it keeps what pages stored
            process.wait(WAIT_S)
    finally:
        process.terminate()
        process.wait(WAIT_S)
