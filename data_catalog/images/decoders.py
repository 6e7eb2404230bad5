"""Decoding processes: an image's bytes go in, a picture or a reason comes out; a death costs that image alone.

`python -m data_catalog.images.decoders SOCKET` loads the libraries once, and forks a process for each socket that it is
sent, so that a new one takes milliseconds.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

from data_catalog.child_process import CLOSED, MAX_EARLY_DEATHS, START_S, ChildDiedError, ChildProcess, cap_memory
from data_catalog.errors import DefectError, InputError
from data_catalog.images.normalise import NormaliseConfig, load_decoders, normalise_one, set_limits
from data_catalog.storage.failpoints import kill_with_parent

_TRIES = 2
_OUT_OF_MEMORY = b"out of memory"
# So much fits into the socket while the process itself sends: neither waits for the other.
_AHEAD_BYTES = 2**16
_PR_SET_PDEATHSIG = 1  # from sys/prctl.h
_TIMEVAL = struct.Struct("@ll")  # seconds and microseconds


class Decoded(NamedTuple):
    """Columns of `IMAGES`, or the reason why there is no picture; and the encoded picture."""

    facts: dict[str, Any]
    picture: bytes


def main(arguments: list[str]) -> None:
    """Load the decoders, then fork a process for each socket that the parent sends."""
    parent = Connection(int(arguments[0]))
    kill_with_parent()
    load_decoders()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
    while True:
        try:
            child = Connection(recv_handle(parent))
        except (EOFError, ConnectionError):
            return
        if os.fork() == 0:
            parent.close()
            with suppress(EOFError, ConnectionError):
                _decode_all(child)
            os._exit(0)
        child.close()


def _decode_all(parent: Connection) -> None:
    """Decode what the parent sends until its socket closes. The first message has the settings."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a decoder that hangs reads nothing from a socket that closes
    config = NormaliseConfig(**json.loads(parent.recv_bytes()))
    set_limits(config)
    cap_memory(config.memory_bytes)
    parent.send_bytes(b"%d" % os.getpid())
    try:
        while True:
            facts, picture = normalise_one(parent.recv_bytes(), config)
            parent.send_bytes(json.dumps(facts).encode())
            parent.send_bytes(picture)
    except MemoryError:  # later results could not be trusted
        parent.send_bytes(_OUT_OF_MEMORY)


class _Child:
    """A decoding process; used by one thread at a time."""

    def __init__(self, zygote: Connection, config: NormaliseConfig) -> None:
        self._socket, theirs = Pipe()
        self._timeout_s = START_S
        try:
            with theirs:
                send_handle(zygote, theirs.fileno(), None)
            self._limit_waits(START_S)
            self._socket.send_bytes(json.dumps(asdict(config)).encode())
            self._pid = int(self._socket.recv_bytes())
            self._limit_waits(config.timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def _limit_waits(self, seconds: float) -> None:
        """Let a wait for a process that has stopped end, also in the middle of a message."""
        self._timeout_s = seconds
        with socket.socket(fileno=os.dup(self._socket.fileno())) as same:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                same.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(int(seconds * 1e6), 10**6)))

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raise `ChildDiedError` if the process ends, or sends nothing in time."""
        try:
            yield
        except BlockingIOError as error:
            os.kill(self._pid, signal.SIGKILL)  # it is still there, so that its id is nobody else's
            raise ChildDiedError(f"silent for {self._timeout_s:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise ChildDiedError("a crash") from error

    @property
    def is_alive(self) -> bool:
        """Return whether the process, which has nothing to say, still listens."""
        return not self._socket.poll()

    def send(self, raw: bytes) -> None:
        """Give it an image."""
        with self._alive():
            self._socket.send_bytes(raw)

    def receive(self) -> Decoded:
        """Return what becomes of the first image that it has."""
        with self._alive():
            facts = self._socket.recv_bytes()
            if facts == _OUT_OF_MEMORY:
                raise ChildDiedError(facts.decode())
            return Decoded(json.loads(facts), self._socket.recv_bytes())

    def close(self) -> None:
        """End the process, after an image that it works on."""
        self._socket.close()


class Decoder:
    """A decoding process for one thread; another takes its place when an image kills it."""

    def __init__(self, decoders: "Decoders", config: NormaliseConfig) -> None:
        self._decoders, self._config = decoders, config
        self.child: _Child | None = None
        self._ahead: bytes | None = None  # an image that the process has beside the one that it works on

    def normalise(self, raw: bytes, ahead: bytes | None = None) -> Decoded:
        """Return what becomes of an image; one that kills its process twice is rejected.

        Args:
            raw: the image.
            ahead: the next one, which the process begins while this one is written.

        Raises:
            InputError: no process can start its work.
        """
        cause = ""
        for _ in range(_TRIES):
            self.child = self.child or self._decoders.take(self._config)
            try:
                if self._ahead is not raw:
                    self.child.send(raw)
                self._ahead = None
                if ahead is not None and len(ahead) <= _AHEAD_BYTES:
                    self.child.send(ahead)
                    self._ahead = ahead
                return self.child.receive()
            except ChildDiedError as error:
                cause = str(error)
                self.child.close()
                self.child = self._ahead = None
        return Decoded({"reason": "decode_crash", "detail": cause}, b"")


class Decoders:
    """The decoding processes of this process: started when needed, reused, killed if they hang. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote: ChildProcess | None = None
        self._idle: dict[NormaliseConfig, list[_Child]] = {}
        self._num_lent = 0
        self._is_closed = False

    @contextmanager
    def lend(self, config: NormaliseConfig) -> Iterator[Decoder]:
        """Lend a decoder to one thread."""
        decoder = Decoder(self, config)
        with self._lock:
            self._num_lent += 1
        try:
            yield decoder
        except BaseException:
            if decoder.child is not None:
                decoder.child.close()
                decoder.child = None
            raise
        finally:
            with self._lock:
                self._num_lent -= 1
                if decoder.child is not None:
                    self._idle.setdefault(config, []).append(decoder.child)

    def take(self, config: NormaliseConfig) -> _Child:
        """Return an idle process, or a new one."""
        with self._lock:
            idle = self._idle.get(config, [])
            while idle:
                if (child := idle.pop()).is_alive:
                    return child
                child.close()
        for _ in range(MAX_EARLY_DEATHS):
            zygote = self.start()
            with suppress(EOFError, OSError):
                return _Child(zygote.socket, config)
        cause = f"{zygote.cause_of_death()}: {zygote.printed() or 'it printed nothing'}"
        raise InputError(f"images: the decoding process ends before it reaches an image: {cause}")

    def start(self) -> ChildProcess:
        """Start the process that loads the libraries, if it does not run. Return at once."""
        with self._lock:
            if self._is_closed:
                raise DefectError(CLOSED)
            if self._zygote is not None and self._zygote.socket.poll():  # it sends nothing: its end is closed
                self._zygote.close()
                self._zygote = None
            if self._zygote is None:
                self._zygote = ChildProcess("data_catalog.images.decoders")
            return self._zygote

    def end_idle(self) -> None:
        """End the idle processes; the next image starts new ones."""
        with self._lock:
            for child in (child for children in self._idle.values() for child in children):
                child.close()
            self._idle.clear()
            if not self._num_lent and self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    def close(self) -> None:
        """End all processes, also those at work, and start no more."""
        with self._lock:
            self._is_closed = True
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None
        self.end_idle()


if __name__ == "__main__":
    main(sys.argv[1:])
