"""Runs of several ranks: they train like one, save like one, stop like one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.distributed import collectives
from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.impala import Unrolls
from lightning_rl.modules.recurrent_policy_distill import TaughtSequences
from lightning_rl.types import TensorFields
from tests.support.methods import AS_IT_IS, METHODS, Options, variants
from tests.support.runs import ENV_STEPS, differences, fit_args, load, rows, start_ranks, unlike, wait_until
from tests.support.shared_runs import SharedRuns

ROOT = Path(__file__).parents[1]
GAMES = "ProcgenDataModule"
LAST = ("--ckpt_path", "last")
TWO = {"trainer__devices": 2, "trainer__strategy": "ddp"}


def two(run_dir: Path, *args: str, **options: Any) -> list[str]:
    """The command line of a tiny run of two ranks."""
    given: dict[str, Any] = {"iterations": 2} | TWO | options
    return fit_args(run_dir, *args, **given | {"iterations": 2 * given["iterations"]})


def together(args: list[str], output: Path, **options: Any) -> list[int | None]:
    """Runs two ranks to their end; how each exited."""
    processes = start_ranks(args, output, **options)
    for process in processes:
        process.join(240)
        process.kill()
    return [process.exitcode for process in processes]


def seen(folder: Path, rank: int) -> list[dict[str, Any]]:
    """What the witness of one rank saw, step by step."""
    paths = sorted(folder.glob(f"{rank}-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
    return [torch.load(path, weights_only=False) for path in paths]


def contents(batch: Any) -> Any:
    """A batch as nested dicts."""
    return {key: contents(value) for key, value in vars(batch).items()} if isinstance(batch, TensorFields) else batch


def joined(parts: list[Any]) -> Any:
    """One batch of what two ranks have each."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if not isinstance(first, TensorFields):
        return first
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(first)}
    if isinstance(first, Unrolls | TaughtSequences):  # time comes first there, but in states
        tensors = {key: column for key, column in columns.items() if isinstance(column[0], Tensor)}
        stacked = {key: torch.cat(column, int(key != "state")) for key, column in tensors.items()}
        return type(first)(**{key: stacked.get(key, joined(column)) for key, column in columns.items()})
    return type(first)(**{key: joined(column) for key, column in columns.items()})


def gradients_alone(module: RLModule, weights: dict[str, Tensor], batch: Any) -> dict[str, Tensor | None]:
    """What one process would give its optimiser for the joined batch."""
    module.load_state_dict(weights)
    module.zero_grad()
    losses, _ = module.objective(batch, torch.Generator())
    torch.stack([module.weights(batch)[name] * loss for name, loss in losses.items()]).sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(
    ("config", "options"), variants(lambda row: [row.ranks] if row.of is None or row.ranks is not AS_IT_IS else [])
)
def test_two_ranks_learn_from_games_of_their_own_what_one_process_would_from_all_and_resume_with_the_same_bits(
    config: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    witness = (
        "--trainer.callbacks+",
        "tests.support.witness.Witness",
        "--trainer.callbacks.folder",
        str(tmp_path / "seen"),
    )
    assert together(two(straight, *witness, config=config, **options), tmp_path / "straight") == [0, 0]
    shutil.copytree(straight, run)
    (run / "last.ckpt").unlink()  # so that it goes on from previous.ckpt
    assert together(two(run, *LAST, config=config, **options), tmp_path / "run") == [0, 0]

    assert unlike(load(straight), load(run)) == []
    assert rows(run) == rows(straight)
    assert [int(row["env_steps"]) for row in rows(run)][-1] == 4 * ENV_STEPS

    one, other = seen(tmp_path / "seen", 0), seen(tmp_path / "seen", 1)
    module = RunCLI(fit_args(tmp_path / "alone", config=config, **options)).model
    assert len(one) == len(other) > 1
    for step, (first, second) in enumerate(zip(one, other, strict=True)):
        assert differences(first["weights"], second["weights"]) == []
        assert differences(first["gradients"], second["gradients"]) == []
        assert differences(contents(first["batch"]), contents(second["batch"])) != []
        monkeypatch.setattr(type(module), "global_step", step)
        alone = gradients_alone(module, first["weights"], joined([first["batch"], second["batch"]]))
        assert alone.keys() == first["gradients"].keys()
        for name, expected in alone.items():
            given = first["gradients"][name]
            if expected is None:
                assert given is None, f"{name} has a gradient"
            else:
                torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max() + 1))
    saved = load(run)
    games = saved[GAMES]["collectors"]
    assert len(games) == 2
    assert differences(games[0]["env"], games[1]["env"]) != []
    assert differences(games[0]["generator"], games[1]["generator"]) != []
    if config.startswith("ppo"):
        _assert_normalised_together(one, other)
        scalings = [collector["env"]["env"]["moments"] for collector in games]
        assert scalings[0] == scalings[1]
        assert scalings[0][2] == pytest.approx(4 * ENV_STEPS, abs=1e-3)
    if config == "policy_distill":
        for game in ("dodgeball", "starpilot"):  # whose environments are half of them
            scalings = [collector["env"][game]["env"]["moments"] for collector in games]
            assert scalings[0] == scalings[1]
            assert scalings[0][2] == pytest.approx(2 * ENV_STEPS, abs=1e-3)
    if config == "ppo_distill":
        assert int(saved["state_dict"]["normalizer.count"]) == 4 * ENV_STEPS
        assert float(saved["state_dict"]["intrinsic_moments"][2]) == pytest.approx(4 * ENV_STEPS, abs=1e-3)


def _assert_normalised_together(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Over each minibatch of both ranks, and not over either's part."""
    for first, second in zip(one, other, strict=True):
        advantages = [step["batch"].advantages.double() for step in (first, second)]
        both = torch.cat(advantages)
        torch.testing.assert_close(both.mean(), torch.zeros_like(both[0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(both.std(correction=0), torch.ones_like(both[0]), rtol=1e-4, atol=0)
        assert all(abs(part.mean()) > 1e-4 for part in advantages)


def test_a_signal_to_one_rank_stops_both_at_the_same_boundary(tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_ranks(two(run, iterations=1000), tmp_path / "out")
    wait_until(lambda: len(rows(run)) >= 2, processes[0])
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [143, 143]
    assert load(run)[GAMES]["env_steps"] == int(rows(run)[-1]["env_steps"])
    assert not (run / "media" / "episodes.mp4").exists()


@pytest.mark.slow
def test_a_rank_that_waits_for_the_others_ends_at_a_signal_and_not_as_one_that_was_stopped(tmp_path: Path) -> None:
    [waiting, other] = start_ranks(two(tmp_path / "run"), tmp_path / "out")
    other.kill()
    clock = Path(f"/proc/{waiting.pid}/stat")
    spent = [0]
    while len(spent) < 4 or spent[-1] - spent[-4] > 20:  # hundredths of a second, of the last two
        spent.append(int(clock.read_text().split()[13]))
        time.sleep(0.7)
    os.kill(waiting.pid or 0, signal.SIGTERM)
    waiting.join(30)
    assert waiting.exitcode == 1


def test_ranks_that_find_different_checkpoints_say_so_and_end(tmp_path: Path, runs: SharedRuns) -> None:
    run, other = (runs.copied(tmp_path / name, "ppo") for name in ("run", "other"))
    (other / "last.ckpt").unlink()

    of_one_rank = (*LAST, "--allow_inexact_resume", "true")
    args, others = (two(folder, *of_one_rank, iterations=4) for folder in (run, other))
    assert together(args, tmp_path / "out", others=others) == [2, 2]
    told = (tmp_path / "out.1").read_text()
    assert f"run_dir: all ranks must start from the same checkpoint, found {run}/last.ckpt of epoch 1, step" in told
    assert f"and {other}/previous.ckpt of epoch 0, step" in told
    assert [row["env_steps"] for row in rows(run)] == ["32", "64"]


@pytest.mark.slow
def test_another_number_of_ranks_is_refused_and_by_option_goes_on_counting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert together(two(run, iterations=1), tmp_path / "out") == [0, 0]

    assert main(fit_args(run, *LAST, iterations=3)) == 2
    assert "the checkpoint has num_ranks 2, this run 1; give the same, or --allow_inexact_resume true" in (
        capfd.readouterr().err
    )
    assert main(fit_args(run, *LAST, "--allow_inexact_resume", "true", iterations=3)) == 0
    assert [row["env_steps"] for row in rows(run)] == ["64", "96"]
    assert main(fit_args(run, *LAST, iterations=4)) == 0
    assert [row["env_steps"] for row in rows(run)] == ["64", "96", "128"]


@pytest.mark.slow
def test_ranks_share_the_episodes_of_a_test(tmp_path: Path, runs: SharedRuns) -> None:
    checkpoint = runs.finished("ppo") / "last.ckpt"
    args = two(tmp_path, "--ckpt_path", str(checkpoint), data__test_episodes=4)
    assert together(["test", *args[1:]], tmp_path / "out") == [0, 0]
    sets = json.loads((tmp_path / "test.json").read_text())["level_sets"]
    assert {name: found["episodes"] for name, found in sets.items()} == dict.fromkeys(
        ("train_levels", "full_distribution", "random_policy"), 4
    )


def test_processes_that_were_started_from_outside_must_be_told_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = fit_args(tmp_path)
    del args[args.index("--run_dir") : args.index("--run_dir") + 2]
    assert main(args) == 2
    assert "run_dir: 2 processes that train together need --run_dir DIR, found none" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_strategies_that_would_fork_games_are_refused(
    strategy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_args(tmp_path / "run", trainer__devices=2, trainer__strategy=strategy)) == 2
    assert "trainer.strategy must be auto or ddp, found" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_that_lightning_starts_end_together(tmp_path: Path) -> None:
    """Without --run_dir: the one that starts the other tells where the run lives."""
    args = two(tmp_path, iterations=1000)
    del args[args.index("--run_dir") : args.index("--run_dir") + 2]
    command = [sys.executable, "-m", "lightning_rl", *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        lasts = "checkpoints/ppo/dodgeball/*/last.ckpt"
        [last] = _first(lambda: list(tmp_path.glob(lasts)), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
    assert load(last.parent)[GAMES]["num_ranks"] == 2
    assert _processes_with(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("config", METHODS)
def test_three_ranks_resume_with_the_same_bits(config: str, tmp_path: Path) -> None:
    three: dict[str, Any] = {"config": config, "trainer__devices": 3, "trainer__strategy": "ddp"}
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert together(fit_args(straight, iterations=6, **three), tmp_path / "straight", number=3) == [0] * 3

    assert together(fit_args(run, iterations=3, **three), tmp_path / "first", number=3) == [0] * 3
    assert together(fit_args(run, *LAST, iterations=6, **three), tmp_path / "second", number=3) == [0] * 3

    assert unlike(load(straight), load(run)) == []
    assert rows(run) == rows(straight)
    assert [int(row["env_steps"]) for row in rows(run)][-1] == 6 * ENV_STEPS


@pytest.mark.slow
def test_when_the_time_is_over_all_ranks_end_at_the_same_boundary(tmp_path: Path) -> None:
    args = two(tmp_path / "run", iterations=10**6, trainer__max_time="00:00:00:05")
    assert together(args, tmp_path / "timed") == [0, 0]
    reached = [int(row["env_steps"]) for row in rows(tmp_path / "run")][-1]
    assert 0 < reached < 2 * 10**6 * ENV_STEPS
    assert load(tmp_path / "run")[GAMES]["env_steps"] == reached

    more = reached // (2 * ENV_STEPS) + 1
    assert together(two(tmp_path / "run", *LAST, iterations=more), tmp_path / "more") == [0, 0]
    assert [int(row["env_steps"]) for row in rows(tmp_path / "run")][-1] == reached + 2 * ENV_STEPS


@pytest.mark.slow
def test_torchrun_on_two_nodes_trains_and_resumes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def nodes(*args: str, iterations: int) -> list[int]:
        options: dict[str, Any] = TWO | {"trainer__devices": 1, "trainer__num_nodes": 2}
        command = fit_args(tmp_path / "run", *args, iterations=2 * iterations, **options)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        rendezvous = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes = [
            subprocess.Popen(
                [*torchrun, *rendezvous, "--node-rank", str(node), "-m", "lightning_rl", *command], env=environment
            )
            for node in range(2)
        ]
        return [process.wait(280) for process in processes]

    assert nodes(*LAST, iterations=1) == [0, 0]
    assert nodes(*LAST, iterations=2) == [0, 0]
    assert [row["env_steps"] for row in rows(tmp_path / "run")] == ["64", "128"]
    assert load(tmp_path / "run")[GAMES]["num_ranks"] == 2


def test_alone_a_process_agrees_with_itself() -> None:
    own = RunningMoments(1.0, 2.0, 3.0)
    assert collectives.world_size() == 1
    assert collectives.all_gather("own") == ["own"]
    assert collectives.all_reduce_moments(own) == own
    assert collectives.all_reduce_mean({"a": 1.0}) == {"a": 1.0}
    assert collectives.all_reduce_sum(torch.tensor([5, 7])).tolist() == [5, 7]


def test_moments_of_a_sample() -> None:
    sample = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert collectives.moments_of(sample) == RunningMoments(3.0, 3.5, 4.0)


def _first(found: Callable[[], list[Path]], process: subprocess.Popen[bytes]) -> list[Path]:
    end = time.monotonic() + 240
    while not found():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end
        time.sleep(0.05)
    return found()


def _processes_with(text: str) -> list[str]:
    """Command lines, of processes that live, in which a text occurs."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode(errors="replace") for line in lines if text.encode() in line]
