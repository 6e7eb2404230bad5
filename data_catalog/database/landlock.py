"""Landlock: the Linux kernel keeps a thread, and all that it starts, from files that it does not need."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from data_catalog.errors import ConfigError

# Numbers of the kernel's interface, the same on every processor that wheels are made for.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH, _SET_NO_NEW_PRIVS = 1, 1, 38
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Rights on files that a version of the interface brought: to execute, write, read, remove and make; to move between
# folders; to truncate; to steer devices.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has, 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def restrict_thread(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Take from the calling thread, and all that it will start, every file but these, for good.

    Where the kernel has no Landlock, nothing is taken.

    Args:
        readable: folders and files that may be read; what does not exist is passed over.
        writable: folders in which anything may be done.

    Raises:
        ConfigError: the kernel has Landlock and refuses to apply it.
    """
    version = landlock_version()
    if version == 0:
        return
    rights = sum(right for since, right in _RIGHTS.items() if since <= version)
    try:
        ruleset = _call("syscall", _CREATE_RULESET, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
        try:
            for place in readable:
                if place.exists():
                    _allow(ruleset, place, _READ_FILE | _READ_DIR if place.is_dir() else _READ_FILE)
            for place in writable:
                _allow(ruleset, place, rights)
            _call("prctl", _SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))
            _call("syscall", _RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise ConfigError(
            f"the kernel does not let a query be kept from writing ({error}): see `man landlock`"
        ) from error


def _allow(ruleset: int, place: Path, rights: int) -> None:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        _call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(function: str, *arguments: object) -> int:
    found = int(getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
