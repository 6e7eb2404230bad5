"""How many CPUs an engine may keep busy."""

import os


def num_cpus() -> int:
    """CPUs of this process: a container or a batch system may have given us fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
