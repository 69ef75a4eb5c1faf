"""Allocator settings that CPU training wants, applied from inside the process.

The table's gradient is tens of megabytes and comes anew every step. glibc serves such a block with
mmap and gives it back on free, so every step page-faults it in again, which costs as much as the
model's arithmetic. Keeping freed memory in the process removes that.
"""

from __future__ import annotations

import ctypes
import platform

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from the heap and to keep them after free.

    Equal in effect to setting MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ before
    the process starts, without starting it again. Returns False where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in settings)
