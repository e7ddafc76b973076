"""Runs that are killed, or asked to stop, again and again, and what must hold each time.

`python -m tests.campaign --kills 100 --stops 30` shares them out among the methods and says what it saw; it ends at the
first thing that does not hold. A method's share is the same when it is asked for alone. A short one is in
`test_campaign.py`.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning_rl.runs import checkpoint_files
from tests.support.methods import METHODS, ROWS
from tests.support.runs import fit_args, listens, load, rows, start, unlike, wait_until
from tests.support.wandb_reader import read_history

LAST = ("--ckpt_path", "last")
_STARTING_SECONDS, _RUNNING_SECONDS = 2.0, 0.5  # a kill comes within, counted from the start or from the first new row


@dataclass
class Seen:
    """What a campaign met."""

    disturbances: Counter[str] = field(default_factory=Counter)
    partial_files: int = 0


def campaign(
    folder: Path, config: str, *, kills: int = 0, stops: int = 0, seed: int | None = None, **options: Any
) -> Seen:
    """Disturbs one run so often, in random order and at random moments, lets it end, and compares.

    Args:
        folder: where the undisturbed run, the disturbed one and their output go.
        config: of the runs.
        kills: how often it is sent SIGKILL.
        stops: how often SIGTERM or SIGUSR1.
        seed: of what happens when; the moments depend on the machine besides.
        options: of the runs, as `fit_args` takes them.

    Raises:
        AssertionError: something that must hold does not.
    """
    folder.mkdir(exist_ok=True)
    stream, seen = random.Random(seed), Seen()
    iterations = ROWS[config].disturbed_iterations * (kills + stops) + 4
    undisturbed = start(fit_args(folder / "undisturbed", config=config, iterations=iterations, **options), _log(folder))
    undisturbed.join()
    assert undisturbed.exitcode == 0, _log(folder).read_text()

    run_dir = folder / "run"
    args = fit_args(run_dir, *LAST, config=config, iterations=iterations, **options)
    shared_memory = set(os.listdir("/dev/shm"))
    disturbances = [signal.SIGKILL] * kills + [stream.choice([signal.SIGTERM, signal.SIGUSR1]) for _ in range(stops)]
    stream.shuffle(disturbances)
    for number in disturbances:
        process = start(args, _log(folder))
        _wait(run_dir, process, stream)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended: its status must say well
            while number != signal.SIGKILL and not listens(process.pid or 0, number):  # not begun on a busy machine
                time.sleep(0.01)
            os.kill(process.pid or 0, number)
        process.join(120)
        seen.disturbances[number.name if process.exitcode else "too late"] += 1
        assert process.exitcode in (-number, 0) if number == signal.SIGKILL else process.exitcode in (143, 0), (
            f"exit status {process.exitcode} after {number.name}"
        )
        seen.partial_files += len(list(run_dir.rglob(".*.partial")))
        for name in (checkpoint_files.LAST, checkpoint_files.PREVIOUS):
            path = run_dir / name
            assert not path.exists() or checkpoint_files.is_readable(path), f"{path} cannot be read"
        survivors = _alive(str(run_dir))
        assert survivors == [], survivors
        assert set(os.listdir("/dev/shm")) <= shared_memory
    final = start(args, _log(folder))
    final.join()
    assert final.exitcode == 0, _log(folder).read_text()

    assert unlike(load(folder / "undisturbed"), load(run_dir)) == []
    assert rows(run_dir) == rows(folder / "undisturbed")
    assert list(run_dir.rglob(".*.partial")) == []
    return seen


def assert_wandb_is_complete(run_dir: Path) -> None:
    """W&B's offline files have each row of metrics.csv once; only kills may leave rows out or behind."""
    logged = [int(row["env_steps"]) for row in read_history(run_dir) if any(key.startswith("loss/") for key in row)]
    assert logged == [int(row["env_steps"]) for row in rows(run_dir)]


def _log(folder: Path) -> Path:
    return folder / "out.txt"


def _wait(run_dir: Path, process: BaseProcess, stream: random.Random) -> None:
    """Until a random moment while it starts, or once it has got further; or until it ends."""
    if stream.random() < 0.2:
        process.join(stream.uniform(0, _STARTING_SECONDS))
        return
    before = len(rows(run_dir))
    try:
        wait_until(lambda: len(rows(run_dir)) > before, process)
    except TimeoutError:
        assert process.exitcode == 0
    process.join(stream.uniform(0, _RUNNING_SECONDS))


def _alive(text: str, *, seconds: float = 60.0) -> list[str]:
    """Processes that print into the parent of a folder and are still there after a while."""
    end = time.monotonic() + seconds
    while found := _processes_writing_to(text):
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return found


def _processes_writing_to(folder: str) -> list[str]:
    """Processes that hold a file open in the parent of a folder: what the command prints goes there."""
    parent = os.path.dirname(folder)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        for number in ("1", "2"):
            try:
                if os.readlink(process / "fd" / number).startswith(parent + os.sep):
                    found.append(f"{process.name}: {(process / 'cmdline').read_text()}")
            except OSError:  # ended meanwhile, or somebody else's
                continue
    return found


def main() -> None:
    """Campaigns over all methods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs, over all methods")
    parser.add_argument("--stops", type=int, default=30, help="SIGTERMs and SIGUSR1s, over all methods, with W&B on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="only these")
    asked = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    for index, (config, row) in enumerate(METHODS.items()):
        if config not in asked.methods:
            continue
        share = {"kills": asked.kills, "stops": asked.stops}
        own = {key: -(-(value - index) // len(METHODS)) for key, value in share.items()}
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            killed = campaign(Path(folder) / "kills", config, kills=own["kills"], seed=asked.seed, **row.disturbed)
            stopped = campaign(
                Path(folder) / "stops",
                config,
                stops=own["stops"],
                seed=asked.seed,
                trainer__logger=None,
                **row.disturbed,
            )
            assert_wandb_is_complete(Path(folder) / "stops" / "run")
            counts = dict(killed.disturbances + stopped.disturbances)
            sys.stdout.write(
                f"{config}: {counts}, {killed.partial_files} half-written files removed, all states and rows equal,"
                f" {time.monotonic() - begun:.0f} s\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
