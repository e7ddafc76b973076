"""When a process ends: with the one that started it, and at signals that ask it to."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler sends to a job that it is about to end."""

STOPPED = 143
"""Exit status of a process that was asked to end."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Lets the kernel end this process with `parent`, which has started it; at once where that is gone already.

    Linux alone knows this; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_at_signals(before: Callable[[int], object] = int) -> None:
    """Lets each of `SIGNALS` end this process at once, with files in the making removed.

    Args:
        before: is called first, with the signal's number.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        before(number)
        sys.exit(STOPPED)

    for number in SIGNALS:
        signal.signal(number, end)
