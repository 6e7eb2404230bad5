"""CPUs that an engine may keep busy, and the end of programs that it runs, each in a process group of its own."""

import os
import signal
import subprocess
from contextlib import suppress


def num_cpus() -> int:
    """CPUs of this process: a container or a batch system may have given us fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program with all that it started; call it no later than right after the process was waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
