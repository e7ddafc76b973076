"""Ctrl-C ends a command within seconds and in one line, and no broad `except` hides it or another signal."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from lightning_rl.data import replay
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.runs.checkpoint_files import METADATA, AtomicCheckpointIO, is_readable, read
from lightning_rl.runs.signals import signals_held_back
from tests.support.runs import fit_args, listens, start, wait_until

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {"model__network": "two_conv"}
CHECKPOINT = {METADATA: {"method": "ppo", "game": "maze", "run_id": "one"}, "state_dict": {"weight": torch.ones(99)}}


class Arrives(io.BufferedWriter):
    """A file: a signal arrives while torch writes it."""

    number: int

    def write(self, data: Any, /) -> int:
        os.kill(os.getpid(), self.number)
        return super().write(data)


@pytest.fixture
def arriving(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets a signal come whenever torch reads or writes."""

    def arrives(number: int) -> None:
        @contextmanager
        def arriving_write(target: Path) -> Iterator[io.BufferedWriter]:
            with atomic_write(target) as file:
                arrives = Arrives(cast(io.BufferedWriter, file).raw)
                arrives.number = number
                yield arrives
                arrives.detach()

        def torch_load(*args: Any, **options: Any) -> Any:
            try:
                os.kill(os.getpid(), number)
            except BaseException as error:  # what C++ makes of it
                raise RuntimeError(str(error)) from error
            return load_as_ever(*args, **options)

        load_as_ever = torch.load
        monkeypatch.setattr(checkpoint_files, "atomic_write", arriving_write)
        monkeypatch.setattr(replay, "atomic_write", arriving_write)
        monkeypatch.setattr(torch, "load", torch_load)

    return arrives


@pytest.fixture(params=[(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"])
def comes(request: pytest.FixtureRequest) -> Iterator[tuple[int, type[BaseException]]]:
    """A signal, and what its handler raises."""
    number, raised = request.param

    def answer(*_: Any) -> None:
        raise raised

    before = signal.signal(number, answer)
    yield number, raised
    signal.signal(number, before)


Comes = tuple[int, type[BaseException]]


class TestAFile:
    def test_that_is_written_is_whole_and_then_the_signal_is_answered(
        self, comes: Comes, arriving: Callable[[int], None], tmp_path: Path
    ) -> None:
        number, raised = comes
        arriving(number)
        io = AtomicCheckpointIO()
        with pytest.raises(raised):
            io.save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
        assert os.listdir(tmp_path) == ["last.ckpt"]
        assert io.unsaved == set()

    def test_that_is_read_is_not_damaged(self, comes: Comes, arriving: Callable[[int], None], tmp_path: Path) -> None:
        number, raised = comes
        torch.save(CHECKPOINT, tmp_path / "last.ckpt")
        arriving(number)
        for read_it in (read, is_readable, AtomicCheckpointIO().load_checkpoint):
            with pytest.raises(raised):
                read_it(tmp_path / "last.ckpt")

    def test_of_real_play_is_not_damaged_either(
        self, comes: Comes, arriving: Callable[[int], None], tmp_path: Path
    ) -> None:
        number, raised = comes
        torch.save({"game": "maze"}, tmp_path / "000000.pt")
        arriving(number)
        with pytest.raises(raised):
            replay._game_of(tmp_path / "000000.pt")


def test_signals_are_answered_in_the_order_in_which_they_came() -> None:
    answered: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: answered.append(number)) for number in numbers}
    try:
        with signals_held_back():
            for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGINT):
                os.kill(os.getpid(), number)
            assert answered == []
        assert answered == [signal.SIGINT, signal.SIGUSR1, signal.SIGINT]
        os.kill(os.getpid(), signal.SIGTERM)
        assert answered[-1] == signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TestCtrlC:
    @pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
    def test_ends_training_in_one_line_that_says_how_to_continue(self, times: int, tmp_path: Path) -> None:
        run_dir, output = tmp_path / "a run", tmp_path / "output.txt"
        process = start(fit_args(run_dir, iterations=10**6, **SHORT), output)
        wait_until(lambda: (run_dir / "last.ckpt").exists(), process)
        began = time.monotonic()
        with suppress(ProcessLookupError):
            for _ in range(times):
                os.kill(process.pid or 0, signal.SIGINT)
                time.sleep(0.05)
        process.join(60)

        assert process.exitcode == 130
        assert time.monotonic() - began < 20
        assert output.read_text() == (
            "lightning-rl: interrupted; nothing since the last boundary is saved;"
            f" to continue: --run_dir '{run_dir}' --ckpt_path last\n"
        )
        assert is_readable(run_dir / "last.ckpt")

    @pytest.mark.slow
    def test_ends_actors_and_the_wandb_run_too(self, tmp_path: Path) -> None:
        run_dir, output = tmp_path / "run", tmp_path / "output.txt"
        options: dict[str, Any] = {"data__num_actors": 2, "trainer__logger": None, "config": "impala"}
        process = start(fit_args(run_dir, iterations=10**6, **options), output, {"WANDB_MODE": "offline"})
        wait_until(lambda: (run_dir / "last.ckpt").exists(), process)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
        assert len(output.read_text().splitlines()) == 1

    def test_ends_a_main_thread_that_answers_nothing(self, tmp_path: Path) -> None:
        program = """
import signal, sys, time
from lightning_rl.runs import signals
signals._INTERRUPT_SECONDS = 0.5
watcher = signals.SignalWatcher(lambda message: print(message, flush=True))
watcher.remedy = "; so"
watcher.start()
try:
    print("ready", flush=True)
    time.sleep(60)
except BaseException:
    pass
time.sleep(60)
"""
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stdout.read() == "interrupted; so\n"

    @pytest.mark.parametrize(
        "args", [fit_args(Path("never")), pytest.param(["doctor"], marks=pytest.mark.slow)], ids=["fit", "doctor"]
    )
    def test_before_everything_is_imported_ends_in_one_line(self, args: list[str], tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_rl", *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        while not listens(process.pid, signal.SIGTERM):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert told.splitlines() in ([], ["lightning-rl: interrupted"])

    def test_that_was_to_be_ignored_is(self) -> None:
        """As shells have it for what they start in the background."""
        program = """
import os, signal, time
from lightning_rl.runs import signals
signal.signal(signal.SIGINT, signal.SIG_IGN)
signals.end_at_interrupts()
signals._INTERRUPT_SECONDS = 0.0
watcher = signals.SignalWatcher()
watcher.start()
with signals.signals_held_back():
    os.kill(os.getpid(), signal.SIGINT)
watcher.close()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.5)
print("goes on")
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "goes on\n")
