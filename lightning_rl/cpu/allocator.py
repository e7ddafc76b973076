"""glibc's allocator, told to keep what training frees."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Keeps large freed blocks in the process instead of returning each to the kernel.

    Activations are tens of megabytes, allocated and freed at every operator; by default each comes as a fresh mapping
    whose pages the kernel must clear first, which costs a fifth to a half of the training time on a CPU. One arena,
    because blocks in the arenas of threads are mappings again.

    Returns:
        Whether there was a glibc to tell.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc: another allocator has other habits
        return False
    told = [mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_ARENA_MAX, 1)]
    return all(told)
