"""When a process ends: with the one that started it, and at signals that ask it to."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler sends to a job that it is about to end."""

STOPPED = 143
"""Exit status of a process that was asked to end."""

INTERRUPTED = 130
"""Exit status of a process that was stopped by Ctrl-C."""

LAUNCHER_VARIABLE = "LIGHTNING_RL_RUN_DIR"
"""Environment variable in which a process leaves its process id and its run folder to the ranks that it starts."""

_PATIENCE_SECONDS = 5.0  # for the main thread to handle the signal itself and to clean up
_INTERRUPT_SECONDS = 10.0  # likewise after Ctrl-C, which may come while a checkpoint is written
_SECOND_INTERRUPT_SECONDS = 0.5
_LAUNCHERS = ("SLURM_PROCID", "TORCHELASTIC_RUN_ID")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interrupted(BaseException):
    """Ctrl-C. Lightning answers a KeyboardInterrupt itself: it ends the process with 1, and ignores a second one."""


def end_with(parent: int) -> None:
    """Lets the kernel end this process with `parent`, which has started it; at once where that is gone already.

    Linux alone knows this; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def launcher_of_this_process() -> tuple[int, str] | None:
    """Process id and run folder of the process that has started this one as another rank of its run, if it has."""
    launcher, _, run_dir = os.environ.get(LAUNCHER_VARIABLE, "").partition(":")
    return (int(launcher), run_dir) if launcher == str(os.getppid()) else None


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


def end_at_interrupts() -> None:
    """Lets Ctrl-C end this process at once and in one line, while nothing else answers it.

    A process that was started to ignore Ctrl-C goes on to. So does a rank that another one has started, which ends it:
    Lightning takes a rank that ends by itself for a failed one.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"lightning-rl: interrupted\n")  # sys.stderr may be in use
        os._exit(INTERRUPTED)

    if launcher_of_this_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
    atexit.register(_ignore_signals)  # registered first, so called last


def _ignore_signals() -> None:
    """Python drops its handlers before it ends, and a signal would then replace the exit status."""
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Lets a process that is started in the block never see signals that are sent to a whole job or terminal."""
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and then unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Answers the signals that arrive in the block after it.

    An exception that a handler raises while torch reads or writes a file passes through C++ and comes out as a
    RuntimeError, which looks like a full disk or a damaged file.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}
    try:
        for number in (*SIGNALS, signal.SIGINT):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, lambda *signalled: arrived.append(signalled))
        yield
    finally:
        for held_back, handler in handlers.items():
            signal.signal(held_back, handler)
        for signalled in arrived:
            handlers[signalled[0]](*signalled)


class SignalWatcher:
    """Answers Ctrl-C, and ends this process at a signal that its main thread does not answer.

    The first Ctrl-C raises `Interrupted` in the main thread. The process ends with `INTERRUPTED` at a second one, or
    where the main thread takes too long or does not pass the exception on.

    One of `SIGNALS` ends a process whose main thread waits in a call that lets no handler run, until `stop`; so do
    ranks that wait for each other before training. The status is `STOPPED`, but 1 where srun or torchrun has started
    them: these end ranks that wait for one that has failed in the same way, and a failed run must not be taken for a
    stopped one and queued again.

    Main threads only may start and close it. Where another listener has the wakeup file descriptor, the main thread
    answers alone.

    Args:
        tell: prints that the process was interrupted.

    Attributes:
        remedy: how to continue, which is added to that line.
    """

    def __init__(self, tell: Callable[[str], object] = str) -> None:
        self.remedy = ""
        self._tell = tell
        self._writer = -1
        self._stopped = threading.Event()
        self._closed = threading.Event()
        self._interrupts = 0
        self._handler_before: Any = None

    def start(self) -> None:
        """From now on Ctrl-C is answered, and a signal after a few seconds, if it was not before."""
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._handler_before = signal.signal(signal.SIGINT, self._interrupt)
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
        """From now on the main thread answers `SIGNALS` alone; Ctrl-C is still watched."""
        self._stopped.set()

    def close(self) -> None:
        """Ends watching; a second call does nothing."""
        self._stopped.set()
        self._closed.set()
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._handler_before)
            self._handler_before = None
        if self._writer != -1:
            signal.set_wakeup_fd(-1)
            os.close(self._writer)
            self._writer = -1

    def tell_interrupted(self) -> None:
        """Says it, once."""
        tell, self._tell = self._tell, str
        tell(f"interrupted{self.remedy}")

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._end(INTERRUPTED)
        raise Interrupted

    def _end(self, status: int) -> None:
        try:
            if status == INTERRUPTED:
                self.tell_interrupted()
        finally:
            os._exit(status)

    def _watch(self, reader: int) -> None:
        patience = _INTERRUPT_SECONDS
        with open(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] in SIGNALS:
                    status = 1 if os.environ.keys() & set(_LAUNCHERS) else STOPPED
                    self._end_later(status, _PATIENCE_SECONDS, unless=self._stopped)
                elif number[0] == signal.SIGINT:
                    self._end_later(INTERRUPTED, patience, unless=self._closed)
                    patience = _SECOND_INTERRUPT_SECONDS

    def _end_later(self, status: int, seconds: float, *, unless: threading.Event) -> None:
        def wait() -> None:
            if not unless.wait(seconds):
                self._end(status)

        threading.Thread(target=wait, name="signal_watcher", daemon=True).start()
