"""Settings of glibc's allocator (malloc.h): what a process keeps of freed memory. Other C libraries have none."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def mallopt(option: int, value: int) -> None:
    """Set an option of the allocator, if there is one."""
    getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)(option, value)


def share_freed_memory(num_heaps: int) -> None:
    """Let all threads allocate from so many heaps, so that each takes what others freed. Call it before threads start.

    With heaps of their own, glibc's default, work in changing threads would keep the peak of each
    (`benchmarks/page_load.py`, `benchmarks/rehearsal.py`).
    """
    mallopt(M_ARENA_MAX, num_heaps)
