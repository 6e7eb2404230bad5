"""Disks that are really full: a small file system, on which a build stops, and goes on when it is made larger."""

import subprocess
from contextlib import suppress
from pathlib import Path

from faults import Outcome, Series

_FIRST_KIB, _STEP_KIB, _ENOUGH_KIB = 256, 256, 64 * 1024
_FULL = " is full: free space and run the same command again"


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system below `folder`."""
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def small_disks(series: Series, folder: Path) -> Outcome:
    """Build on a disk that is a little larger at each try, until it is large enough."""
    outcome = Outcome("disks really full")
    try:
        mountable = can_mount(folder)
    except OSError:
        mountable = False
    if not mountable:
        series.tell("left out: this user may not mount a small disk")
        return outcome
    trial = series.new_trial()
    disk = trial.root
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_FIRST_KIB}k", "none", str(disk)], check=True)
    try:
        size = _FIRST_KIB
        while trial.run() != 0 and size < _ENOUGH_KIB:
            said = trial.said().strip().rpartition("\n")[2]
            outcome.counts[f"{trial.under_way()}, full"] += 1
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
