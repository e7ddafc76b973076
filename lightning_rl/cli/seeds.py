"""`fit --seeds 1,2,3`: one run per seed, each a process of its own in a folder of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from lightning_rl.cli.config_files import positions, values
from lightning_rl.cli.error_messages import say
from lightning_rl.errors import UsageError
from lightning_rl.runs.paths import users_path
from lightning_rl.runs.signals import SIGNALS, STOPPED, end_with

OPTIONS = {
    "--seeds": "One run per seed, as 1,2,3: each in a folder of its own below --run_dir, one after the other.",
    "--seeds_at_once": "So many of --seeds at a time, in processes of their own cores. 1 by default.",
}

_PARENT = "LIGHTNING_RL_SEEDS"
"""Environment variable in which a process leaves its process id to the runs that it starts."""

_WRONG_INPUT, _INTERRUPTED = 2, 130
_INTERRUPT_SECONDS = 1.0  # in which a terminal's Ctrl-C has reached the runs, too
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """A run to start or to continue.

    Attributes:
        seed: its seed.
        run_dir: its folder.
        args: its command line without the program's name.
    """

    seed: int
    run_dir: Path
    args: list[str]


def end_with_others() -> None:
    """Lets this process end with the one that runs several seeds, where that has started it."""
    if (parent := os.environ.pop(_PARENT, None)) is not None:  # popped: not for what this process starts
        end_with(int(parent))


def is_asked_for(args: list[str]) -> bool:
    """Whether a command line is about several seeds."""
    return any(arg.partition("=")[0] in OPTIONS for arg in args)


def this_program(args: list[str] | None) -> list[str]:
    """What starts a run as this process was started; the package's own program where `main` was given `args`."""
    if args is not None:
        return [sys.executable, "-m", "lightning_rl"]
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]]


def planned(args: list[str]) -> tuple[list[SeedRun], int]:
    """The runs that a command line asks for, and how many of them at once.

    Raises:
        UsageError: it is not `fit`, names no `--run_dir`, or has a value that is not allowed.
    """
    given = {name: values(args, name) for name in ("--run_dir", "--ckpt_path", "--seed_everything", *OPTIONS)}
    if args[0] != "fit":
        raise UsageError(f"seeds: only fit takes several, found {args[0]}")
    if not given["--run_dir"]:
        raise UsageError("seeds: several runs need --run_dir DIR, below which each has a folder, found none")
    if given["--seed_everything"]:
        raise UsageError(f"seed_everything is set by --seeds, found {given['--seed_everything'][-1]}")
    if set(given["--ckpt_path"]) - {"last"}:
        raise UsageError(f"ckpt_path must be last with --seeds, found {given['--ckpt_path'][-1]}")
    folder, rest = Path(users_path("run_dir", given["--run_dir"][-1]) or ""), _without(args, *given)
    if wrong := [place for place in (folder, *folder.absolute().parents) if place.exists() and not place.is_dir()]:
        raise UsageError(f"run_dir: {wrong[0]} is no folder; give one, or a path to a new one")
    runs = []
    for seed in _seeds((given["--seeds"] or [""])[-1]):
        run_dir = folder / f"seed_{seed}"
        own = ["--seed_everything", str(seed), "--run_dir", str(run_dir), "--ckpt_path", "last"]
        runs.append(SeedRun(seed=seed, run_dir=run_dir, args=[*rest, *own]))
    return runs, _at_once((given["--seeds_at_once"] or ["1"])[-1])


def _seeds(text: str) -> list[int]:
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    is_a_list = re.fullmatch(r"\[?\s*\d+(\s*,\s*\d+)*\s*]?", text) is not None
    if not is_a_list or len(set(numbers)) < len(numbers) or max(numbers) >= 2**32:
        raise UsageError(f"seeds must be different integers from 0 to {2**32 - 1}, as 1,2,3, found {text or 'none'}")
    return numbers


def _at_once(text: str) -> int:
    most = len(_cores())
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"seeds_at_once must be an integer from 1 to {most}, the cores of this machine, found {text}")
    return int(text)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _without(args: list[str], *names: str) -> list[str]:
    """A command line without some options and their values."""
    left_out = {index for index, _ in positions(args, *names)}
    left_out |= {index for index, arg in enumerate(args) if arg.partition("=")[0] in names}
    return [arg for index, arg in enumerate(args) if index not in left_out]


def run_seeds(args: list[str], program: list[str]) -> int:
    """Starts or continues the runs that a command line asks for.

    A run that fails does not keep the others from running. A signal is passed on to the runs that are going on, which
    save and end; the same command goes on where they were.

    Args:
        args: the command line without the program's name.
        program: what starts a run when its command line follows.

    Returns:
        The exit status: 0 all are done; 143 or 130 stopped; 2 wrong input; 1 a run has failed.
    """
    try:
        runs, at_once = planned(args)
    except UsageError as error:
        say(str(error))
        return _WRONG_INPUT
    return _Crew(runs, at_once, program).work()


@dataclass
class _Crew:
    """Runs that go on at the same time, and those that wait."""

    waiting: list[SeedRun]
    at_once: int
    program: list[str]
    going_on: dict[int, tuple[SeedRun, "subprocess.Popen[bytes]"]] = field(default_factory=dict)
    """By the place that a run has among those at the same time."""
    statuses: list[int] = field(default_factory=list)
    received: int | None = None

    def work(self) -> int:
        """Runs all; the exit status."""
        with self._signals_passed_on():
            try:
                while (self.waiting and not self._is_to_stop()) or self.going_on:
                    self._start_more()
                    time.sleep(_LOOK_SECONDS)
                    self._note_ends()
            except KeyboardInterrupt:
                self._interrupt()
                return _INTERRUPTED
        if self.received is not None:
            return STOPPED
        decisive = [status for status in (_INTERRUPTED, STOPPED, _WRONG_INPUT) if status in self.statuses]
        return decisive[0] if decisive else int(any(self.statuses))

    def _is_to_stop(self) -> bool:
        ends_all = {_INTERRUPTED, STOPPED, _WRONG_INPUT}
        return self.received is not None or not ends_all.isdisjoint(self.statuses)

    def _start_more(self) -> None:
        for place in range(self.at_once):
            if place not in self.going_on and self.waiting and not self._is_to_stop():
                run = self.waiting.pop(0)
                self.going_on[place] = run, self._started(run, place)
                if self.received is not None:  # before the process was known
                    self._pass_on(self.received)

    def _started(self, run: SeedRun, place: int) -> "subprocess.Popen[bytes]":
        environment = os.environ | {_PARENT: str(os.getpid())}
        with _output(run, alone=self.at_once == 1) as output:
            process = subprocess.Popen([*self.program, *run.args], stdout=output, stderr=output, env=environment)
        if self.at_once > 1 and hasattr(os, "sched_setaffinity"):
            with suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(process.pid, _cores()[place :: self.at_once])
        return process

    def _note_ends(self) -> None:
        for place, (run, process) in list(self.going_on.items()):
            if (status := process.poll()) is not None:
                del self.going_on[place]
                self.statuses.append(status)
                if status not in (0, STOPPED, _INTERRUPTED) and self.received is None:
                    say(f"seed {run.seed}: the run in {run.run_dir} ended with status {status}")

    def _pass_on(self, number: int) -> None:
        for _, process in list(self.going_on.values()):
            process.send_signal(number)

    def _interrupt(self) -> None:
        """Waits for the runs to end at Ctrl-C, which a terminal sends to all processes."""
        for _, process in self.going_on.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_INTERRUPT_SECONDS)
                continue
            process.send_signal(signal.SIGINT)
            process.wait()

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        """Passes signals on to the runs; restores the handlers afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _frame: FrameType | None) -> None:
            self.received = number
            self._pass_on(number)

        before = {number: signal.signal(number, note) for number in SIGNALS}
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # the program's handler would end it at once
            before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _output(run: SeedRun, *, alone: bool) -> Iterator[IO[bytes] | None]:
    """Where a run prints to: where this process does, or to a file if others would print between its lines."""
    if alone:
        yield None
        return
    path = run.run_dir.with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"seed {run.seed}: runs in {run.run_dir}, prints to {path}")
    with path.open("ab") as file:
        yield file
