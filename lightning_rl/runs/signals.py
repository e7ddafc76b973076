"""When a process ends: with the one that started it, and at signals that ask it to."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler sends to a job that it is about to end."""

STOPPED = 143
"""Exit status of a process that was asked to end."""

_PATIENCE_SECONDS = 5.0  # for the main thread to handle the signal itself and to clean up
_LAUNCHERS = ("SLURM_PROCID", "TORCHELASTIC_RUN_ID")
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


class SignalWatcher:
    """Ends this process at one of `SIGNALS` while its main thread waits in a call that lets no handler run.

    So do ranks that wait for each other before training. The status is `STOPPED`, but 1 where srun or torchrun has
    started them: these end ranks that wait for one that has failed in the same way, and a failed run must not be taken
    for a stopped one and queued again.

    Main threads only may start and stop it; it does nothing where somebody else listens for signals in the same way.
    """

    def __init__(self) -> None:
        self._writer = -1
        self._stopped = threading.Event()

    def start(self) -> None:
        """From now on a signal is answered after a few seconds, if it was not before."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        others = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if others != -1:
            signal.set_wakeup_fd(others)
            os.close(reader)
            os.close(writer)
            return
        self._writer = writer
        threading.Thread(target=self._watch, args=(reader,), name="signal_watcher", daemon=True).start()

    def stop(self) -> None:
        """From now on the main thread answers alone; a second call does nothing."""
        if self._writer != -1:
            signal.set_wakeup_fd(-1)
            self._stopped.set()
            os.close(self._writer)
            self._writer = -1

    def _watch(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] in SIGNALS and not self._stopped.wait(_PATIENCE_SECONDS):
                    os._exit(1 if os.environ.keys() & set(_LAUNCHERS) else STOPPED)
