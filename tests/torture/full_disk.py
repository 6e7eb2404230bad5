"""Disks that are really full: a small file system, on which a build stops, and goes on when it is made larger."""

import shutil
import subprocess
from contextlib import suppress

from faults import Outcome, Series

_FIRST_KIB, _STEP_KIB, _ENOUGH_KIB = 256, 256, 64 * 1024
_FULL = " is full: free space and run the same command again"


def small_disks(series: Series) -> Outcome:
    """Build on a disk that is a little larger at each try, until it is large enough."""
    outcome, trial, size = Outcome("disks really full"), series.new_trial(), _FIRST_KIB
    disk = trial.root
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        series.tell("left out: this user may not mount a small disk")
        return outcome
    try:
        while trial.run() != 0 and size < _ENOUGH_KIB:
            said = trial.said().strip().rpartition("\n")[2]
            outcome.counts["full"] += 1
            if _FULL not in said or not said.startswith("vernaclip: the disk that holds "):
                outcome.problems.append(f"at {size} KiB: {trial.said()[-500:]}")
            outcome.problems.extend(f"at {size} KiB: process {pid} is left" for pid in trial.left_over())
            size += _STEP_KIB
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        outcome.num_builds += 1
        series.compare(trial, outcome)
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return outcome
