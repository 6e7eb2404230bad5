"""Programs that engines run: each in a process group of its own, so that it can be ended with all that it started."""

import os
import signal
import subprocess
from contextlib import suppress


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill whatever runs in a process's group; call it no later than right after the process was waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
