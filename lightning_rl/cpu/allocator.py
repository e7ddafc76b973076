"""Settings of glibc's allocator that keep freed memory in the process."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # glibc, malloc.h
_KEPT = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
# glibc's defaults; its own threshold for mappings would grow with the blocks that are freed
_RETURNED = {_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 131_072, _M_MMAP_THRESHOLD: 131_072}


def keep_freed_memory() -> bool:
    """Keeps large freed blocks in the process instead of returning each to the kernel.

    Activations are tens of megabytes, allocated and freed at every operator. By default, each is a fresh mapping whose
    pages the kernel must clear first, which costs a fifth to a half of the training time on a CPU. The number of arenas
    is limited to one, because the arenas of other threads would use mappings again.

    Returns:
        Whether the settings were accepted; only glibc has them.
    """
    return _set(_KEPT)


def return_freed_memory() -> bool:
    """Takes `keep_freed_memory` back: large freed blocks are returned to the kernel, each at once.

    For a program whose small blocks, which stay, lie between large temporary ones: the gaps are too small for the next
    large ones, and the heap grows. `play` so takes 1 GB instead of 2; its steps take some milliseconds more.

    Returns:
        Whether the settings were accepted; only glibc has them.
    """
    return _set(_RETURNED)


def _set(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    accepted = [mallopt(option, value) for option, value in options.items()]
    return all(accepted)
