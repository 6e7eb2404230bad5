"""Decoding processes: an image's bytes go in, a picture or a reason comes out; a death costs that image alone.

`python -m data_catalog.images.decoders SOCKET` loads the libraries once, and forks a process for each socket that it is
sent, so that a new one takes milliseconds.
"""

import atexit
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle

from PIL import Image

from data_catalog.base.errors import DefectError, InputError
from data_catalog.disk.child_process import CLOSED, MAX_EARLY_DEATHS, START_S, ChildProcess, cap_memory, fork_for_each
from data_catalog.disk.failpoints import kill_with_parent
from data_catalog.disk.row_groups import Row
from data_catalog.images.decoding import ImageRejectedError, is_heif
from data_catalog.images.normalise import NormaliseConfig, load_decoders, normalise_image
from data_catalog.rows.image_formats import format_of, reads_heif

CRASH = "decode_crash"
_TRIES = 2
_OUT_OF_MEMORY = b'{"drop_reason": "decode_crash", "detail": "out of memory"}\n'
# So much fits into the socket while the process itself sends: neither waits for the other.
_AHEAD_BYTES = 2**16
# Keeps all pixels of what is no training image: a query, or an image of a test set.
_WHOLE = NormaliseConfig(
    resize_mode="no", encode_format="png", encode_quality=1, min_image_size=1, max_aspect_ratio=1000, max_pixels=2**27
)
_TIMEVAL = struct.Struct("@ll")  # seconds and microseconds


def main(arguments: list[str]) -> None:
    """Load the decoders, then fork a process for each socket that the parent sends."""
    kill_with_parent()
    load_decoders()
    fork_for_each(Connection(int(arguments[0])), _decode_all)


def _decode_all(parent: Connection) -> None:
    """Decode what the parent sends until its socket closes. The first message has the settings."""
    config = NormaliseConfig(**json.loads(parent.recv_bytes()))
    # Some decoders reserve memory when a file is opened. Pillow refuses twice this number.
    Image.MAX_IMAGE_PIXELS = max(1, config.max_pixels // 2)
    cap_memory(config.memory_bytes)
    parent.send_bytes(b"%d" % os.getpid())
    try:
        while True:
            parent.send_bytes(_answer(parent.recv_bytes(), config))
    except MemoryError:  # later results could not be trusted
        parent.send_bytes(_OUT_OF_MEMORY)


def _answer(raw: bytes, config: NormaliseConfig) -> bytes:
    """Return a line of JSON, columns of `IMAGES`, and the encoded picture behind it."""
    try:
        facts = {"drop_reason": None, **asdict(normalise_image(raw, config))}
        facts["thumbnail"] = facts["thumbnail"].hex()
    except ImageRejectedError as error:
        facts = {"drop_reason": error.reason, "detail": error.detail, "original_format": format_of(raw)}
    picture: bytes = facts.pop("data", b"")
    return json.dumps(facts).encode() + b"\n" + picture


class Decoder:
    """A decoding process for one thread; another takes its place when an image kills it."""

    def __init__(self, fork: Callable[[NormaliseConfig], tuple[Connection, int]], config: NormaliseConfig) -> None:
        self._fork, self._config = fork, config
        self._process: tuple[Connection, int] | None = None
        self._ahead: bytes | None = None  # an image that the process has beside the one that it works on

    def normalise(self, raw: bytes, ahead: bytes | None = None) -> Row:
        """Return columns of `IMAGES`, with a reason if there is no picture: an image may kill its process twice.

        `ahead` is the next image, which the process begins while this one is written.
        """
        for _ in range(_TRIES):
            found = self._ask(raw, ahead)
            if found["drop_reason"] != CRASH:
                break
            self.close()
        return found

    def _ask(self, raw: bytes, ahead: bytes | None) -> Row:
        self._process = self._process or self._fork(self._config)
        connection, pid = self._process
        try:
            if self._ahead is not raw:
                connection.send_bytes(raw)
            self._ahead = None
            if ahead is not None and len(ahead) <= _AHEAD_BYTES:
                connection.send_bytes(ahead)
                self._ahead = ahead
            facts, _, picture = connection.recv_bytes().partition(b"\n")
        except BlockingIOError:
            os.kill(pid, signal.SIGKILL)  # it is still there, so that its id is nobody else's
            return {"drop_reason": CRASH, "detail": f"silent for {self._config.timeout_s:g} s"}
        except (EOFError, OSError):  # also in the middle of an answer
            return {"drop_reason": CRASH, "detail": "a crash"}
        found: Row = json.loads(facts)
        return found | {"thumbnail": bytes.fromhex(found["thumbnail"]), "bytes": picture} if picture else found

    def close(self) -> None:
        """End the process, after an image that it works on."""
        if self._process is not None:
            self._process[0].close()
        self._process = self._ahead = None


class Decoders:
    """The decoding processes of this process. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote: ChildProcess | None = None
        self._num_lent = 0
        self._is_closed = False

    @contextmanager
    def lend(self, config: NormaliseConfig) -> Iterator[Decoder]:
        """Lend a decoder to one thread."""
        decoder = Decoder(self._fork, config)
        with self._lock:
            self._num_lent += 1
        try:
            yield decoder
        finally:
            decoder.close()
            with self._lock:
                self._num_lent -= 1

    def _fork(self, config: NormaliseConfig) -> tuple[Connection, int]:
        """Return the socket and the id of a new process."""
        for _ in range(MAX_EARLY_DEATHS):
            zygote = self.start()
            ours, theirs = socket.socketpair()
            # A wait for a process that has stopped ends, also in the middle of a message.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(int(config.timeout_s * 1e6), 10**6)))
            connection = Connection(ours.detach())
            with suppress(EOFError, OSError):
                with theirs:
                    send_handle(zygote.socket, theirs.fileno(), None)
                connection.send_bytes(json.dumps(asdict(config)).encode())
                if connection.poll(START_S):
                    return connection, int(connection.recv_bytes())
            connection.close()
        cause = f"{zygote.cause_of_death()}: {zygote.printed() or 'it printed nothing'}"
        raise InputError(f"images: the decoding process ends before it reaches an image: {cause}")

    def start(self) -> ChildProcess:
        """Start the process that loads the libraries, if it does not run. Return at once."""
        with self._lock:
            if self._is_closed:
                raise DefectError(CLOSED)
            if self._zygote is not None and self._zygote.socket.poll():  # it sends nothing: its end is closed
                self._end()
            self._zygote = self._zygote or ChildProcess("data_catalog.images.decoders")
            return self._zygote

    def end_idle(self) -> None:
        """End all processes, unless a decoder is lent; the next image starts new ones."""
        with self._lock:
            if not self._num_lent:
                self._end()

    def close(self) -> None:
        """End all processes, also those at work, and start no more."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _end(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
        self._zygote = None


@cache
def _decoders() -> Decoders:
    decoders = Decoders()
    atexit.register(decoders.close)
    return decoders


def without_heif(raw: bytes) -> tuple[bytes, ImageRejectedError | None]:
    """Return a HEIF file as an upright PNG in sRGB, or why a decoding process rejects it; any other file as it is."""
    if not (is_heif(raw) and reads_heif()):
        return raw, None
    with _decoders().lend(_WHOLE) as decoder:
        found = decoder.normalise(raw)
    if found["drop_reason"]:
        return raw, ImageRejectedError(found["drop_reason"], found["detail"])
    return found["bytes"], None


if __name__ == "__main__":
    main(sys.argv[1:])
