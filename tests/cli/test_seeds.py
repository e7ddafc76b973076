"""`fit --seeds`: what is started, what becomes of it, and that a run per seed is what the command alone makes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_rl.cli.program import main
from lightning_rl.cli.seeds import planned, run_seeds, this_program
from tests.support.runs import fit_args, load, rows, start, started, unlike, wait_until
from tests.support.shared_runs import SharedRuns

FIT = ["fit", "--config", "ppo"]

STAND_IN = """
import os, signal, sys, time
def option(name): return sys.argv[sys.argv.index(name) + 1]
seed, run_dir = option("--seed_everything"), option("--run_dir")
def note(text): open(os.path.dirname(run_dir) + "/calls", "a").write(f"{seed} {text}\\n")
signal.signal(signal.SIGTERM, lambda *_: (note("stopped"), sys.exit(143)))
signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.3), note("interrupted"), sys.exit(130)))
note("begins on " + ",".join(map(str, sorted(os.sched_getaffinity(0)))))
print("prints")
time.sleep(float(option("--sleep")))
note("ends")
sys.exit(int(option("--status_" + seed)) if "--status_" + seed in sys.argv else 0)
"""
"""A program in the place of the command: notes what happens to it, and ends with the status that it is told to."""

PROGRAM = [sys.executable, "-c", STAND_IN]


def asked(folder: Path, *args: str, sleep: float = 0.0) -> list[str]:
    return ["fit", "--seeds", "1,2,3", "--run_dir", str(folder), "--sleep", str(sleep), *args]


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_each_seed_has_its_folder_and_the_rest_of_the_command() -> None:
    args = ["fit", "--config=ppo", "--seeds=7,3", "--data.game", "heist", "--run_dir", "runs/a", "--ckpt_path", "last"]

    runs, at_once = planned(args)

    rest = ["fit", "--config=ppo", "--data.game", "heist"]
    last = ["--ckpt_path", "last"]
    assert [run.args for run in runs] == [
        [*rest, "--seed_everything", str(seed), "--run_dir", f"runs/a/seed_{seed}", *last] for seed in (7, 3)
    ]
    assert at_once == 1


def test_the_folder_may_be_below_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    runs, _ = planned(["fit", "--config=ppo", "--seeds=7", "--run_dir=~/a"])  # which a shell leaves as it is

    assert [run.run_dir for run in runs] == [tmp_path / "a" / "seed_7"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["test", "--seeds", "1", "--run_dir", "a"], "seeds: only fit takes several, found test"),
        ([*FIT, "--seeds", "1,2"], "seeds: several runs need --run_dir DIR, below which each has a folder, found none"),
        ([*FIT, "--seeds", "1,1", "--run_dir", "a"], "seeds must be different integers from 0 to 4294967295"),
        ([*FIT, "--seeds", "1,x", "--run_dir", "a"], "as 1,2,3, found 1,x"),
        ([*FIT, "--seeds", str(2**32), "--run_dir", "a"], f"found {2**32}"),
        ([*FIT, "--seeds_at_once", "2", "--run_dir", "a"], "seeds must be different integers"),
        ([*FIT, "--seeds", "1,2", "--run_dir", "a", "--seed_everything", "1"], "seed_everything is set by --seeds"),
        ([*FIT, "--seeds", "1", "--run_dir", "a", "--ckpt_path", "b.ckpt"], "ckpt_path must be last with --seeds"),
        ([*FIT, "--seeds", "1", "--run_dir", "a", "--seeds_at_once", "0"], "seeds_at_once must be an integer from 1"),
        ([*FIT, "--config", "{seeds: '1,2'}"], "seeds is an option of the command line, found in a config"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_and_nothing_is_written(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(args) == 2

    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_one_seed_follows_the_other_and_a_failed_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))

    assert run_seeds(asked(tmp_path, "--status_2", "1"), PROGRAM) == 1

    assert calls(tmp_path) == [f"{seed} {what}" for seed in (1, 2, 3) for what in (f"begins on {cores}", "ends")]
    told = f"lightning-rl: seed 2: the run in {tmp_path}/seed_2 ended with status 1\n"
    assert capsys.readouterr().err == told


@pytest.mark.slow
def test_ctrl_c_waits_for_the_run_to_end_where_the_program_has_a_handler_of_its_own(tmp_path: Path) -> None:
    program = """
import sys
from lightning_rl.runs.signals import end_at_interrupts
end_at_interrupts()  # as lightning_rl.__main__ does
from lightning_rl.cli.seeds import run_seeds
sys.exit(run_seeds(sys.argv[2:], [sys.executable, "-c", sys.argv[1]]))
"""
    command = [sys.executable, "-c", program, STAND_IN, *asked(tmp_path, sleep=60)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        while not calls(tmp_path):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130

    assert [call.partition(" ")[2] for call in calls(tmp_path)][1:] == ["interrupted"]


@pytest.mark.parametrize("status", [2, 143, 130])
def test_wrong_input_and_a_stopped_run_end_the_rest(status: int, tmp_path: Path) -> None:
    assert run_seeds(asked(tmp_path, "--status_1", str(status)), PROGRAM) == status
    assert [call.partition(" ")[0] for call in calls(tmp_path)] == ["1", "1"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at once need two cores")
def test_several_at_once_have_cores_and_outputs_of_their_own(tmp_path: Path) -> None:
    first, second, *_ = sorted(os.sched_getaffinity(0))

    assert run_seeds([*asked(tmp_path, sleep=0.5), "--seeds_at_once", "2"], PROGRAM) == 0

    begun = [call for call in calls(tmp_path) if "begins" in call]
    assert {call.partition(" ")[0] for call in calls(tmp_path)[:2]} == {"1", "2"}  # before either ends
    cores = [set(map(int, call.rpartition(" ")[2].split(","))) for call in sorted(begun)]
    assert (first in cores[0], second in cores[1], cores[0] & cores[1]) == (True, True, set())
    assert [(tmp_path / f"seed_{seed}.txt").read_text() for seed in (1, 2, 3)] == ["prints\n"] * 3


def test_a_signal_stops_the_run_that_goes_on_and_starts_no_other(tmp_path: Path) -> None:
    process = started(_exit_with_seeds, asked(tmp_path, sleep=60.0))
    wait_until(lambda: len(calls(tmp_path)) == 1, process)

    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()

    assert process.exitcode == 143
    assert [call for call in calls(tmp_path) if "begins" not in call] == ["1 stopped"]


def _exit_with_seeds(args: list[str]) -> None:
    sys.exit(run_seeds(args, PROGRAM))


def test_a_run_is_started_as_this_program_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "utf8", "mine.py", "fit", "--seeds", "1"])
    monkeypatch.setattr(sys, "argv", ["mine.py", "fit", "--seeds", "1"])

    assert this_program(None) == [sys.executable, "-X", "utf8", "mine.py"]
    assert this_program(["fit"]) == [sys.executable, "-m", "lightning_rl"]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it starts a dozen processes
@pytest.mark.parametrize("at_once", [1, 2])
def test_killed_and_stopped_at_random_and_given_again_it_ends_with_the_bits_of_undisturbed_runs(
    at_once: int, tmp_path: Path, runs: SharedRuns
) -> None:
    iterations, stream = 12, random.Random()
    undisturbed = {seed: runs.finished("ppo", iterations=iterations, seed_everything=seed) for seed in (1, 2)}
    folder = tmp_path / "runs"
    alone = fit_args(folder, config="ppo", iterations=iterations, seed_everything=None)
    args = [*alone, "--seeds", "1,2", "--seeds_at_once", str(at_once)]

    def done() -> int:
        return sum(len(rows(folder / f"seed_{seed}")) for seed in (1, 2))

    disturbances = [signal.SIGKILL, stream.choice([signal.SIGTERM, signal.SIGUSR1]), signal.SIGKILL]
    for number in disturbances:
        process = start(args, tmp_path / "output.txt")
        reached = done() + stream.randint(0, 4)
        wait_until(lambda reached=reached: done() > reached, process)  # type: ignore[misc]
        time.sleep(stream.uniform(0, 0.5))
        os.kill(process.pid or 0, number)
        process.join(120)
        assert process.exitcode in ((-number,) if number == signal.SIGKILL else (143,))
    final = start(args, tmp_path / "output.txt")
    final.join()

    assert final.exitcode == 0, (tmp_path / "output.txt").read_text()
    for seed, run in undisturbed.items():
        assert unlike(load(run), load(folder / f"seed_{seed}")) == []
        assert rows(folder / f"seed_{seed}") == rows(run)
