"""The memory of a process that trains on the CPU: kept between uses, and in huge pages.

glibc gives a large buffer back to the kernel as soon as it is free, and an update frees them by the hundred: the kernel
then clears the same memory anew, 4 KiB at a time, and the processor looks up a place for each of these pages. Kept, and
in pages of 2 MiB, an iteration of a model of 32 million weights takes up to a sixth less (docs/ppo.md).
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
MADV_HUGEPAGE = 14  # sys/mman.h
HUGE_PAGE = 2 << 20
SHARE = 4  # one part in so many of the memory is in huge pages once it is used, and no more


@cache
def hold_heap() -> bool:
    """From now on, what this process frees it keeps. Returns whether it does; where there is no glibc it does not.

    Nothing is taken until it is used; the process then stays as large as it once was.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, libc.madvise
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (mallopt(M_TRIM_THRESHOLD, -1) and mallopt(M_MMAP_MAX, 0)):
        return False
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
    room = malloc(size)  # the heap grows by as much and, freed, keeps it: addresses only
    if room:
        start = -(-room // HUGE_PAGE) * HUGE_PAGE
        madvise(start, (room + size - start) // HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE)
        free(room)
    return True
