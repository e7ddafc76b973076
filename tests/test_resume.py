"""A run that was stopped, killed or damaged and then resumed ends with the bits of one that never was."""

import contextlib
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rl import SimPLeModule
from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.errors import BusyError
from lightning_rl.modules.acting import ActingModule
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.folder_lock import folder_lock
from tests.support.methods import ANNEALED, METHODS, RUNNING_STD, Options, variants
from tests.support.runs import ENV_STEPS, differences, fit, fit_args, flat, load, rows, start, unlike, wait_until
from tests.support.shared_runs import SharedRuns
from tests.support.wandb_reader import read_history, read_run_id

GAMES, RANDOM_STATES = "ProcgenDataModule", "RandomStates"

LAST = ("--ckpt_path", "last")


def pictures(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "media").glob("*.png")}


@pytest.mark.parametrize(("config", "options"), variants(lambda row: row.resumed))
def test_a_stopped_and_resumed_run_has_the_bits_of_one_that_never_stopped(
    config: str, options: Options, tmp_path: Path, runs: SharedRuns
) -> None:
    straight = runs.finished(config, **options)

    fit(tmp_path, config=config, iterations=1, **options)  # SimPLe's ends in the middle of a pass
    torch.manual_seed(99)  # whatever a new process finds in its generators
    resumed = fit(tmp_path, *LAST, config=config, iterations=2, **options)

    assert unlike(load(straight), resumed) == []
    assert rows(tmp_path) == rows(straight)
    assert pictures(tmp_path) == pictures(straight)
    assert list(dict.fromkeys(row["env_steps"] for row in rows(tmp_path))) == ["32", "64"]


@pytest.mark.slow
@pytest.mark.parametrize("config", [*METHODS, "policy_distill_lstm"])
def test_so_has_one_of_two_halves_that_acts_by_a_captured_step(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActingModule, "captures", True)
    options: dict[str, Any] = {"config": config, "data__halves": 2}
    straight = fit(tmp_path / "straight", iterations=2, **options)

    fit(tmp_path / "run", iterations=1, **options)
    torch.manual_seed(99)
    resumed = fit(tmp_path / "run", *LAST, iterations=2, **options)

    assert unlike(straight, resumed) == []
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")
    assert straight[GAMES]["halves"] == 2


def test_what_played_in_halves_goes_on_in_halves(
    tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    in_one = runs.copied(tmp_path / "run", "ppo")
    args = fit_args(in_one, *LAST, iterations=3)
    assert RunCLI(args).datamodule.halves == 1

    checkpoint = load(in_one)
    checkpoint[GAMES]["halves"] = 2
    torch.save(checkpoint, in_one / "last.ckpt")

    assert RunCLI(args).datamodule.halves == 2  # whatever this machine would decide
    assert main([*args, "--data.halves", "1"]) == 2
    assert (
        "the checkpoint has halves 2, this run 1; give the same, or --allow_inexact_resume" in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize(("config", "options"), variants(lambda row: row.resumed, module=SimPLeModule))
def test_killed_in_each_of_its_phases_simple_ends_with_the_bits_of_a_run_that_never_was(
    config: str, options: Options, tmp_path: Path, runs: SharedRuns
) -> None:
    straight = runs.finished(config, **options)
    lines = [("32", "model")] * 2 + [("32", "policy")] * 2 + [("64", "model")]

    run_dir = tmp_path / "run"
    args = fit_args(run_dir, *LAST, config=config, iterations=2, **options)
    for reached in (0, 1, 3):  # in the first slice, which collects; while the world model learns; while the policy does
        process = start(args, tmp_path / "run.txt")
        wait_until(lambda reached=reached: reached == 0 or len(rows(run_dir)) >= reached, process)  # type: ignore[misc]
        time.sleep(random.Random().uniform(0, 0.5))
        process.kill()
        process.join()
    resumed = fit(run_dir, *LAST, config=config, iterations=2, **options)

    assert unlike(load(straight), resumed) == []
    assert rows(run_dir) == rows(straight)
    losses = {"model": "loss/frames", "policy": "loss/policy"}
    assert [(row["env_steps"], losses[phase] in row) for row, (_, phase) in zip(rows(run_dir), lines, strict=True)] == [
        (env_steps, True) for env_steps, _ in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "slices",
    [
        pytest.param(1, id="world-model-half-trained", marks=pytest.mark.slow),
        pytest.param(3, id="policy-half-trained"),
        pytest.param(4, id="pass-done", marks=pytest.mark.slow),
    ],
)
def test_with_other_num_envs_simple_goes_on_learning_from_what_was_played(slices: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"config": "simple_cpu", "data__num_steps": 8, "data__total_env_steps": 48}
    fit(tmp_path, trainer__max_epochs=slices, **options)
    played = tmp_path / "replay" / "rank0"
    before, first = (played / "000000.pt").read_bytes(), load(tmp_path)[GAMES]["collectors"][0]["replay"]["digests"]

    others = options | {"data__num_envs": 4, "trainer__max_epochs": slices + 1}
    fit(tmp_path, *LAST, "--allow_inexact_resume", "true", **others)
    again = fit(tmp_path, *LAST, **others | {"trainer__max_epochs": -1})

    assert (played / "000000.pt").read_bytes() == before
    assert sorted(path.name for path in played.iterdir()) == ["000000.pt", "000001.pt"]
    assert again[GAMES]["env_steps"] == 8 * (2 + 4)
    assert len(rows(tmp_path)) == 5
    digests = again[GAMES]["collectors"][0]["replay"]["digests"]
    assert (len(digests), digests[:1]) == (2, first)


def test_the_checkpoint_holds_what_must_survive(runs: SharedRuns) -> None:
    run_dir = runs.finished("ppo_distill", **RUNNING_STD)
    first, second = load(run_dir, "previous.ckpt"), load(run_dir)
    changed = "\n".join(unlike(first, second))
    for part in (
        "/state_dict/network",
        "/state_dict/teacher",
        "/state_dict/intrinsic_moments",
        "/state_dict/normalizer",
        "/optimizer_states/0/state/0/exp_avg:",
        "/optimizer_states/0/state/0/exp_avg_sq:",
        f"/{GAMES}/collectors/0/generator",
        f"/{GAMES}/collectors/0/memory/intrinsic_rollouts",
        f"/{GAMES}/collectors/0/memory/intrinsic_sums",
        f"/{GAMES}/collectors/0/env",
        f"/{GAMES}/env_steps: 32 and 64",
        f"/callbacks/{RANDOM_STATES}/torch",
    ):
        assert part in changed, f"{part} is not saved or did not move"
    assert "/state_dict/student" not in changed
    assert {type(leaf) for leaf in flat(second).values()} <= {Tensor, str, int, float, bool, type(None)}


def test_validation_and_video_change_no_bit_of_training(tmp_path: Path, runs: SharedRuns) -> None:
    without = load(runs.finished("ppo"))
    fit(tmp_path / "with", iterations=1, trainer__check_val_every_n_epoch=1)  # ends with a video
    judged = fit(tmp_path / "with", *LAST, iterations=2, trainer__check_val_every_n_epoch=1)
    for part in ("state_dict", "optimizer_states", GAMES):
        assert differences(without[part], judged[part]) == []
    for stream in ("torch", "numpy"):
        states = (checkpoint["callbacks"][RANDOM_STATES][stream] for checkpoint in (without, judged))
        assert differences(*states) == []
    assert all("validation/return" in row for row in rows(tmp_path / "with"))


def test_a_run_with_a_schedule_is_not_continued_without(
    tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = runs.finished("ppo", **ANNEALED) / "last.ckpt"

    assert main(fit_args(tmp_path / "run", "--ckpt_path", str(checkpoint), model__optimizer="RMSprop")) == 2

    told = "its run has a schedule of learning rates, this command none; give model.scheduler as it was trained"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("key", ["model.scheduler.total_iters", "model.learning_rate"])
def test_a_schedule_goes_on_as_it_began(
    key: str, tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = runs.finished("ppo", **ANNEALED) / "last.ckpt"
    options = ANNEALED | {key: 7 if key.endswith("iters") else 0.5}

    assert main(fit_args(tmp_path / "run", "--ckpt_path", str(checkpoint), iterations=4, **options)) == 2

    told = f"the schedule of {checkpoint} goes on as it began; give {'.'.join(key.split('.')[:2])} as it was trained"
    assert told in capsys.readouterr().err


def actors_of(learner: BaseProcess) -> list[int]:
    """Its actor processes, in the order of their start; not the tracker that Python starts beside them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == learner.pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return sorted(found)


def are_gone(pids: list[int], *, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def kill_an_actor_then_the_learner(run_dir: Path, output: Path, **options: Any) -> None:
    """A run that is stopped twice: its second actor dies after two iterations, the learner after six, or later."""
    args = fit_args(run_dir, *LAST, **options)
    shared_memory = set(os.listdir("/dev/shm"))

    learner = start(args, output)
    wait_until(lambda: len(rows(run_dir)) >= 2, learner)
    actors = actors_of(learner)
    os.kill(actors[1], signal.SIGKILL)
    learner.join(30)
    assert learner.exitcode == 1
    *_, told = output.read_text().splitlines()
    assert told == (
        f"lightning-rl: actor 1 of 2, process {actors[1]}, died; exit code -9 (SIGKILL);"
        f" to continue from the last boundary: --run_dir {run_dir} --ckpt_path last"
    )
    assert are_gone(actors)

    learner = start(args, output)
    wait_until(lambda: len(rows(run_dir)) >= 6, learner)
    actors = actors_of(learner)
    learner.kill()
    learner.join()
    assert len(actors) == 2
    assert are_gone(actors)
    assert set(os.listdir("/dev/shm")) <= shared_memory


@pytest.mark.slow
def test_an_actor_that_is_killed_is_named_and_no_actor_survives_the_learner(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    kill_an_actor_then_the_learner(run_dir, tmp_path / "run.txt", config="impala", data__num_actors=2, iterations=9)

    assert checkpoint_files.is_readable(run_dir / "last.ckpt")


@pytest.mark.slow
def test_with_actors_a_run_ends_with_the_same_bits_whichever_process_is_killed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options: dict[str, Any] = {
        "config": "impala_vae",
        "data__num_actors": 2,
        "iterations": 9,
        "model__vae__minibatch_size": 8,
    }

    kill_an_actor_then_the_learner(run_dir, tmp_path / "run.txt", **options)

    straight = fit(tmp_path / "straight", **options)
    resumed = fit(run_dir, *LAST, **options)
    assert unlike(straight, resumed) == []
    assert rows(run_dir) == rows(tmp_path / "straight")
    assert [row["vtrace/policy_lag"] for row in rows(run_dir)] == ["0.0", *["1.0"] * 8]


def test_last_in_an_empty_folder_starts_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    fit(run_dir, *LAST, iterations=1)
    assert f"{run_dir} holds no checkpoint yet: a new run starts" in capsys.readouterr().err
    assert load(run_dir)[GAMES]["env_steps"] == ENV_STEPS


class TestOfOneRun:
    @pytest.fixture
    def run_dir(self, tmp_path: Path, runs: SharedRuns) -> Path:
        return runs.copied(tmp_path / "run", "ppo")

    def test_a_complete_run_is_left_as_it_is(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
        assert main(fit_args(run_dir, *LAST, iterations=2)) == 0
        assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
        assert "has reached data.total_env_steps 64: nothing to do" in capsys.readouterr().err

    def test_a_damaged_last_is_named_and_the_previous_taken(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        undamaged = load(run_dir)
        last = run_dir / "last.ckpt"
        last.write_bytes(last.read_bytes()[:-1000])
        resumed = fit(run_dir, *LAST, iterations=2)
        assert f"{last} is damaged: {run_dir / 'previous.ckpt'} is taken instead" in capsys.readouterr().err
        assert unlike(undamaged, resumed) == []
        assert [row["env_steps"] for row in rows(run_dir)] == ["32", "64"]
        assert checkpoint_files.is_readable(run_dir / "previous.ckpt")

    def test_other_num_envs_are_refused_unless_an_inexact_resume_is_allowed(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = {"data__num_envs": 4, "iterations": 4}
        assert main(fit_args(run_dir, *LAST, **other)) == 2  # type: ignore[arg-type]
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        for part in ("num_envs 2", "4", "allow_inexact_resume"):
            assert part in message

        resumed = fit(run_dir, *LAST, "--allow_inexact_resume", "true", **other)
        assert resumed[GAMES]["env_steps"] == 4 * ENV_STEPS
        assert resumed[GAMES]["num_envs"] == 4

    def test_one_that_another_process_trains_is_left_alone(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = load(run_dir)
        with folder_lock(run_dir) as alone:
            assert alone
            assert main(fit_args(run_dir, *LAST, iterations=3)) == 1
        told = capsys.readouterr().err
        assert told == f"lightning-rl: run_dir: another process trains in {run_dir}; let it end, or give another one\n"
        assert unlike(before, load(run_dir)) == []
        assert main(fit_args(run_dir, *LAST, iterations=3)) == 0

    def test_so_is_one_that_another_process_saved_while_this_one_started(self, run_dir: Path) -> None:
        cli = RunCLI(fit_args(run_dir, *LAST, iterations=3))
        shutil.copy(run_dir / "previous.ckpt", run_dir / "another")
        (run_dir / "another").replace(run_dir / "last.ckpt")
        with pytest.raises(BusyError, match="another process has just saved"):
            cli.run()

    @pytest.mark.parametrize("left", ["last.ckpt", "previous.ckpt", "best.ckpt", "metrics.csv", "config.yaml"])
    def test_what_is_left_of_it_is_not_overwritten(
        self, left: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (run_dir / "best.ckpt").write_bytes(b"best")
        for path in run_dir.iterdir():
            if path.is_file() and path.name not in (left, ".lock"):
                path.unlink()
        content = (run_dir / left).read_bytes()
        assert main(fit_args(run_dir)) == 2
        on = ", or --ckpt_path last to continue that one" if left in ("last.ckpt", "previous.ckpt") else ""
        assert capsys.readouterr().err == (
            f"lightning-rl: run_dir: {run_dir} holds a run already ({left}); give another folder{on}\n"
        )
        assert (run_dir / left).read_bytes() == content

    def test_nor_is_its_best_by_a_command_that_finds_no_last(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (run_dir / "last.ckpt").rename(run_dir / "best.ckpt")
        (run_dir / "previous.ckpt").unlink()
        before = {path: path.read_bytes() for path in run_dir.glob("*.*")}

        assert main(fit_args(run_dir, *LAST, iterations=3)) == 2

        assert "holds best.ckpt of a run and no last.ckpt; give --ckpt_path best" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in run_dir.glob("*.*")} == before

    def test_nor_is_a_good_previous_by_a_damaged_last(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        last, previous, best = (run_dir / f"{name}.ckpt" for name in ("last", "previous", "best"))
        shutil.copy(previous, best)
        last.write_bytes(last.read_bytes()[:-1000])

        assert main(fit_args(run_dir, "--ckpt_path", "best", iterations=2)) == 2
        assert f"goes on until {previous}, which a run from {best} would replace" in capsys.readouterr().err

        previous.unlink()
        fit(run_dir, "--ckpt_path", "best", iterations=3)
        assert not checkpoint_files.is_readable(run_dir / "damaged.ckpt")
        assert all(checkpoint_files.is_readable(path) for path in (last, previous))

    def test_a_branch_that_was_killed_before_it_saved_begins_again(
        self, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        branch, before = tmp_path / "branch", load(run_dir)
        begun = fit_args(branch, "--ckpt_path", str(run_dir / "last.ckpt"), iterations=3)

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(PPOModule, "training_step", interrupted)
            with pytest.raises(SystemExit):
                main(begun)
        assert not (branch / "last.ckpt").exists()
        assert main(begun) == 0

        assert load(branch)["global_step"] > before["global_step"]
        assert [row["env_steps"] for row in rows(branch)] == ["96"]

    def test_nor_is_it_by_one_that_goes_on_from_elsewhere(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "best.ckpt").write_bytes(b"best")
        args = fit_args(tmp_path / "other", "--ckpt_path", str(run_dir / "last.ckpt"), iterations=3)
        assert main(args) == 2
        assert "holds a run already (best.ckpt); give another folder" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["best.ckpt"]

    @pytest.mark.slow
    def test_an_older_checkpoint_of_it_branches_off_only_into_another_folder(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        earlier = run_dir / "previous.ckpt"
        before = load(run_dir)
        assert main(fit_args(run_dir, "--ckpt_path", str(earlier), iterations=3)) == 2
        assert f"goes on until {run_dir / 'last.ckpt'}, which a run from {earlier} would replace" in (
            capsys.readouterr().err
        )
        assert unlike(before, load(run_dir)) == []
        branch = fit(tmp_path / "branch", "--ckpt_path", str(earlier), iterations=3)
        assert branch[GAMES]["env_steps"] == 3 * ENV_STEPS
        assert (
            branch[checkpoint_files.METADATA]["run_id"] != before[checkpoint_files.METADATA]["run_id"]
        )  # W&B would mix them

    def test_fewer_epochs_than_are_done_are_refused(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(fit_args(run_dir, *LAST, iterations=3, trainer__max_epochs=1)) == 2
        told = capsys.readouterr().err
        assert (
            told
            == f"lightning-rl: trainer.max_epochs must be at least 2, which {run_dir}/last.ckpt has done, found 1\n"
        )
        assert main(fit_args(run_dir, *LAST, iterations=3, trainer__max_epochs=2)) == 0

    def test_the_number_of_ranks_is_the_trainers(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        two = fit_args(run_dir, *LAST, iterations=3, trainer__devices=2, trainer__strategy="ddp")
        assert main(two) == 2
        assert "num_ranks 1, this run 2; give the same, or --allow_inexact_resume true" in capsys.readouterr().err

        checkpoint = load(run_dir)
        checkpoint[GAMES]["num_ranks"] = 2
        checkpoint[GAMES]["collectors"] *= 2
        torch.save(checkpoint, run_dir / "last.ckpt")
        assert RunCLI(two).checkpoint == run_dir / "last.ckpt"  # not refused


def test_the_wandb_run_goes_on_under_its_id_and_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    online = {"trainer__logger": None}
    first = fit(tmp_path, iterations=1, **online)
    second = fit(tmp_path, *LAST, iterations=2, **online)
    assert (
        read_run_id(tmp_path)
        == first[checkpoint_files.METADATA]["run_id"]
        == second[checkpoint_files.METADATA]["run_id"]
    )
    assert [row["env_steps"] for row in read_history(tmp_path) if "loss/policy" in row] == [32, 64]
    assert "wandb" not in capfd.readouterr().err


def test_the_comparison_finds_a_changed_bit() -> None:
    first = {"a": [torch.zeros(3), {"b": 1}], "c": {}}
    assert differences(first, {"a": [torch.zeros(3), {"b": 1}], "c": {}}) == []
    changed = [torch.tensor([0.0, 0.0, 1e-45]), torch.zeros(3).double(), torch.zeros(1), torch.zeros(2, 3)]
    others = [*([tensor, {"b": 1}] for tensor in changed), [torch.zeros(3), {"b": True}], [torch.zeros(3)]]
    for other in others:
        assert differences(first, {"a": other, "c": {}}) != []
    assert differences(first, first | {"c": {"d": None}}) == ["/c/: 0 and 1", "/c/d: missing and None"]


@pytest.mark.parametrize(("option", "value"), [("max_steps", 3), ("limit_train_batches", 1)])
def test_what_would_cut_an_iteration_short_is_refused(
    option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_args(tmp_path / "run", f"--trainer.{option}", str(value))) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"lightning-rl: trainer.{option} must be ")
    assert "it would cut iterations short" in told
    assert not (tmp_path / "run").exists()


def test_time_is_up_at_a_boundary(tmp_path: Path) -> None:
    updates = 16
    stopped = fit(tmp_path / "run", "--trainer.max_time", "00:00:00:01", iterations=10**6, model__epochs=updates // 2)
    assert stopped["global_step"] % updates == 0
    assert stopped["global_step"] == updates * len(rows(tmp_path / "run"))
