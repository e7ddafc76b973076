"""The command line: wrong input in one line, and every subcommand once on a tiny run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from lightning_rl import __version__
from lightning_rl.callbacks.world_model_report import world_model_metrics
from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.envs.procgen_games import GAMES
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.metrics_csv import read_metrics
from tests.support.methods import CONFIGS, module_of
from tests.support.runs import ENV_STEPS, fit, fit_args, listens, load, rows, start, wait_until
from tests.support.shared_runs import SharedRuns
from tests.support.wandb_reader import read_end, read_history, read_run_id, read_step_metrics

ROOT = Path(__file__).parents[2]
PPO_MODULE = module_of("ppo").__name__
PPO = ["fit", "--config", str(CONFIGS / "ppo.yaml"), "--run_dir", "run"]
DISTILL = ["fit", "--config", str(CONFIGS / "ppo_distill.yaml"), "--run_dir", "run"]
IMPALA = ["fit", "--config", str(CONFIGS / "impala_vae.yaml"), "--run_dir", "run"]
SIMPLE = ["fit", "--config", str(CONFIGS / "simple_cpu.yaml"), "--run_dir", "run"]
ATARI = ["fit", "--config", str(CONFIGS / "ppo_atari.yaml"), "--run_dir", "run"]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses `args`."""
    capsys.readouterr()
    status = main(args)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert re.fullmatch(r"lightning-rl: [^\n]+\n", captured.err)
    return captured.err


class TestWrongInput:
    @pytest.mark.parametrize(
        ("args", "told"),
        [
            ([], ["subcommand", "fit", "validate", "test", "predict", "found none"]),
            (["train"], ["subcommand must be one of", "export, bench, report, play, doctor", "found train"]),
            (["fit"], ["model", "--config FILE"]),
            (["fit", "--config", "absent.yaml"], ["config", "absent.yaml", "not exist"]),
            (["test", "--config", str(CONFIGS / "ppo.yaml")], ["ckpt_path", "test needs a checkpoint", "--ckpt_path"]),
            ([*PPO, "--data.game", "pong"], ["game", "'pong'", *GAMES]),
            ([*PPO, "--data.init_args.game", "pong"], ["game", "'pong'", *GAMES]),
            ([*PPO, "--data.gmae", "coinrun"], ["data.gmae", "did you mean data.game?"]),
            ([*PPO, "--data.game"], ["--data.game", "expected a value"]),
            ([*PPO, "--model.gama", "0.9"], ["model.gama", "model.gamma"]),
            ([*DISTILL, "--model.distillation.foo", "1"], ["model.distillation.foo", "normalization", "max_reward"]),
            ([*PPO, "--trainer.foo", "1"], ["trainer.foo", "max_epochs"]),
            ([*PPO, "--foo", "1"], ["foo", "run_dir", "ckpt_path"]),
            ([*PPO, "extra"], ["unrecognized", "extra"]),
            ([*PPO, "--replay", "episodes.npz"], ["replay is not an option; ", "run_dir", "ckpt_path"]),
            ([*PPO, "--data.num_envs", "many"], ["data.num_envs", "int", "many"]),
            ([*PPO, "--model.gamma", "high"], ["model.gamma", "float", "high"]),
            ([*PPO, "--model.gamma", "1.5"], ["model.gamma", "1.5", "[0, 1]"]),
            ([*PPO, "--model.network", "big"], ["model.network", "big", "three_stack", "two_stack"]),
            ([*DISTILL, "--model.distillation.scale", "x"], ["model.distillation.scale", "float", "x"]),
            ([*DISTILL, "--model.distillation.dropout", "2"], ["model.distillation.dropout", "2.0", "[0, 1)"]),
            ([*PPO, "--trainer.max_epochs", "abc"], ["trainer.max_epochs", "int", "null", "abc"]),
            ([*PPO, "--trainer.gradient_clip_val", "0.5"], ["trainer.gradient_clip_val", "null", "0.5"]),
            ([*PPO, "--trainer.accelerator", "abacus"], ["accelerator", "abacus", "cpu"]),
            ([*PPO, "--game", "starpilot"], ["game is not an option; did you mean data.game?"]),
            ([*PPO, "--data.num_levels", "-1"], ["num_levels", "-1", "from 0"]),
            (
                [*PPO, "--data.num_actors", "2"],
                ["data.num_actors", "0", PPO_MODULE, "on-policy", "found 2"],
            ),
            ([*IMPALA, "--data.num_actors", "33"], ["data.num_actors", "from 0 to data.num_envs, 32", "found 33"]),
            ([*IMPALA, "--data.actor_timeout", "0"], ["data.actor_timeout", "positive", "0.0"]),
            ([*IMPALA, "--data.num_steps", "0"], ["data.num_steps", "at least 1", "found 0"]),
            ([*IMPALA, "--model.vae.latent_size", "0"], ["model.vae.latent_size", "at least 1", "found 0"]),
            ([*ATARI, "--data.game", "pogn"], ["game", "'pogn'", "did you mean pong or pooyan?"]),
            ([*ATARI, "--data.game", "coinrun"], ["game", "'coinrun'", "allowed: ", "ms_pacman"]),
            ([*ATARI, "--data.max_no_ops", "-1"], ["max_no_ops", "-1", "from 0"]),
            ([*ATARI, "--data.max_episode_steps", "0"], ["max_episode_steps", "0", "from 1"]),
            ([*ATARI, "--data.frame_stack", "0"], ["data.frame_stack", "at least 1", "found 0"]),
            ([*ATARI, "--data.num_levels", "200"], ["data.num_levels is not an option; ", "num_envs"]),
            (
                [*ATARI, "--data.num_actors", "2"],
                ["data.num_actors", "0", PPO_MODULE, "on-policy", "found 2"],
            ),
            ([*PPO, "--data.sticky_actions", "true"], ["data.sticky_actions is not an option; "]),
            (
                [*ATARI, "--model", "ImpalaVAEModule", "--model.vae.latent_size", "64"],
                ["obs_shape", "3 channels", "(105, 80, 12)"],
            ),
            ([*SIMPLE, "--model.world_model.compress_steps", "7"], ["compress_steps", "at most 6", "64×64", "found 7"]),
            ([*SIMPLE, "--model.outer_loop.policy_slice", "0"], ["model.outer_loop.policy_slice", "at least 1", "0"]),
            ([*SIMPLE, "--model.minibatch_size", "100"], ["model.minibatch_size", "multiple of 80", "found 100"]),
            ([*SIMPLE, "--data.return_scaling", "true"], ["model.reward_values", "--data.return_scaling false"]),
            ([*SIMPLE, "--data.iterations_per_epoch", "2"], ["data.iterations_per_epoch must be 1", "found 2"]),
            ([*SIMPLE, "--data.num_actors", "2"], ["data.num_actors", "0", "SimPLeModule", "on-policy"]),
            ([*SIMPLE, "--model.world_model.pixels", "big"], ["model.world_model.pixels", "big", "softmax", "squared"]),
            ([*SIMPLE, "--data.game", "pong"], ["game", "'pong'", *GAMES]),
            ([*PPO, "--policy_from", "absent.ckpt"], ["policy_from", "absent.ckpt", "not there"]),
            ([*PPO, "--data.distribution_mode", "memory"], ["distribution_mode", "coinrun", "'memory'", "exploration"]),
            ([*PPO, "--model.minibatch_size", "100"], ["model.minibatch_size", "100", "16384"]),
            ([*PPO, "--seed_everything", "-1"], ["seed_everything", "-1", "4294967295"]),
            ([*PPO, "--seed_everything", "true"], ["seed_everything", "True", "integer"]),
            ([*PPO, "--allow_inexact_resume", "maybe"], ["allow_inexact_resume", "bool", "maybe"]),
            ([*PPO, "--model", "torch.nn.Linear"], ["model", "torch.nn.Linear", PPO_MODULE]),
            ([*PPO, "--model.optimizer", "torch.nn.Linear"], ["model.optimizer", "torch.optim", "torch.nn.Linear"]),
            ([*PPO, "--model.optimizer", "Sgd"], ["model.optimizer", "Sgd"]),
            ([*PPO, "--model.optimizer", "SGD", "--model.optimizer.momentum", "-1"], ["momentum", "-1"]),
            (
                [*PPO, "--model.optimizer", "SGD", "--model.optimizer.lr", "1"],
                ["model.optimizer.lr", "left out", "model.learning_rate", "found 1.0"],
            ),
            ([*PPO, "--model.scheduler", "torch.optim.SGD"], ["model.scheduler", "LRScheduler", "torch.optim.SGD"]),
            ([*PPO, "--model.scheduler", "CosineAnnealingLR"], ["model.scheduler.T_max is missing"]),
            (
                [*PPO, "--model.scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"],
                ["model.scheduler", "no metric", "ReduceLROnPlateau"],
            ),
            ([*PPO, "--data", "Foo"], ["data", "Foo", "ProcgenDataModule", "AtariDataModule"]),
            ([*PPO, "--ckpt_path", "absent.ckpt"], ["ckpt_path", "absent.ckpt", "not there"]),
            ([*PPO, "--ckpt_path", "https://x.org/y.ckpt"], ["ckpt_path", "https://x.org/y.ckpt", "file of this"]),
            ([*PPO[:3], "--ckpt_path", "last"], ["ckpt_path", "last", "--run_dir"]),
        ],
    )
    def test_is_refused_in_one_line_and_nothing_is_written(
        self, args: list[str], told: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refusal(args, capsys)
        assert [part for part in told if part not in message] == []
        assert os.listdir(empty_folder) == []

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            ("model: [", ["wrong.yaml", "is not a config"]),
            ("hello", ["wrong.yaml", "is not a config", "hello"]),
            ("foo: 1", ["foo", "run_dir"]),
            ("trainer: {foo: 1}", ["trainer.foo", "max_epochs"]),
            ("model: {class_path: lightning_rl.Foo}", ["model", "lightning_rl.Foo", PPO_MODULE]),
            (f"model: {{class_path: lightning_rl.{PPO_MODULE}, foo: 1}}", ["model", "init_args", "'foo': 1"]),
            ("model: {init_args: {gama: 1}}", ["model.gama", "model.gamma"]),
            ("model: {init_args: {network: big}}", ["model.network", "big", "two_stack"]),
            (
                "model: {class_path: lightning_rl.PPODistillModule, init_args: {distillation: {scale: big}}}",
                ["model.distillation.scale", "float", "big"],
            ),
            ("data: {init_args: {num_envs: 1.5}}", ["data.num_envs", "int", "1.5"]),
        ],
    )
    def test_in_a_config_file_is_told_likewise(
        self, lines: str, told: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (empty_folder / "wrong.yaml").write_text(lines)
        message = refusal([*PPO, "--config", "wrong.yaml"], capsys)
        assert [part for part in told if part not in message] == []
        assert os.listdir(empty_folder) == ["wrong.yaml"]

    @pytest.mark.parametrize("run_dir", ["taken", "taken/run"])
    def test_a_run_dir_that_cannot_be_a_folder(
        self, run_dir: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (empty_folder / "taken").touch()
        message = refusal(fit_args(Path(run_dir)), capsys)
        assert f"run_dir: {run_dir} cannot be written" in message

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected from root")
    def test_a_write_protected_run_dir(self, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        empty_folder.chmod(0o500)
        message = refusal(fit_args(Path("run")), capsys)
        empty_folder.chmod(0o700)
        assert "run_dir: run cannot be written" in message

    def test_in_a_process_of_its_own_leaves_one_line_and_status_2(self, tmp_path: Path) -> None:
        args = [sys.executable, "-m", "lightning_rl", *PPO[:3], "--model.minibatch_size", "100"]
        done = subprocess.run(
            args, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == (
            "lightning-rl: model.minibatch_size must divide num_steps × num_envs = 16384 samples, found 100\n"
        )
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--version"], [f"lightning-rl {__version__}"]),
        (["--help"], ["fit", "validate", "test", "predict"]),
        (["fit", "--help"], ["--run_dir", "--allow_inexact_resume", "--ckpt_path", "--config"]),
        ([*PPO, "--data.game", "heist", "--print_config"], ["game: heist", "minibatch_size: 2048", "offline: true"]),
    ],
)
def test_what_is_only_shown(
    args: list[str], told: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(args)
    captured = capsys.readouterr()
    assert [part for part in told if part not in captured.out] == []
    assert "hpc" not in captured.out  # Lightning's words of checkpoints that this program refuses
    assert captured.err == ""
    assert os.listdir(empty_folder) == []


@pytest.mark.parametrize("form", ["", ".init_args"])
def test_short_and_long_options_are_the_same(form: str, empty_folder: Path) -> None:
    cli = RunCLI([*PPO, f"--data{form}.game", "maze", f"--model{form}.greedy", "true", "--seed_everything=7"])
    assert (cli.datamodule.game, cli.model.greedy, cli.saved_config.data.init_args.seed) == ("maze", True, 7)
    assert os.listdir(empty_folder) == []


def test_without_a_run_dir_the_run_goes_under_method_and_game(empty_folder: Path) -> None:
    cli = RunCLI([*PPO[:3], "--data.game", "maze"])
    assert cli.run_dir.parent == Path("checkpoints/ppo/maze")


@pytest.fixture
def run_dir(runs: SharedRuns, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of four iterations, validated once, with the default logger."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged = {"trainer__logger": None, "trainer__check_val_every_n_epoch": 3, "trainer__max_epochs": 100}
    return runs.finished("ppo", iterations=4, **logged)


class TestFinishedRun:
    def test_has_its_files(self, run_dir: Path) -> None:
        files = {"best.ckpt", "config.yaml", "last.ckpt", "media", "metrics.csv", "previous.ckpt", "wandb"}
        assert set(os.listdir(run_dir)) == files
        assert set(os.listdir(run_dir / "media")) == {"episodes.mp4", "learning_curve.png"}

    def test_metrics_have_a_row_for_each_iteration(self, run_dir: Path) -> None:
        table = read_metrics(run_dir / "metrics.csv")
        assert [row["env_steps"] for row in table] == ["32", "64", "96", "128"]
        assert [row["env_steps"] for row in table if "validation/return" in row] == ["96"]
        everywhere = {
            "episode/return",
            "episode/length",
            "rollout/reward",
            "time/env_steps_per_second",
            "loss/policy",
            "loss/value",
            "loss/entropy",
            "policy/entropy",
            "policy/approx_kl",
            "policy/clip_fraction",
        }
        assert everywhere <= table[-1].keys()

    def test_wandb_has_the_rows_of_metrics_csv(self, run_dir: Path) -> None:
        history = [row for row in read_history(run_dir) if not any(key.startswith("media/") for key in row)]
        table = read_metrics(run_dir / "metrics.csv")
        assert len(history) == len(table)
        for logged, row in zip(history, table, strict=True):
            assert {key: float(cell) for key, cell in row.items()} == {key: float(logged[key]) for key in row}
        assert read_step_metrics(run_dir)["*"] == "env_steps"

    def test_its_config_repeats_it(self, run_dir: Path, tmp_path: Path) -> None:
        args = ["fit", "--config", str(run_dir / "config.yaml"), "--run_dir", str(tmp_path / "again")]
        assert main([*args, "--trainer.logger", "false"]) == 0
        first, again = load(run_dir), load(tmp_path / "again")
        for name, tensor in first["state_dict"].items():
            assert torch.equal(tensor, again["state_dict"][name])
        assert rows(tmp_path / "again") == rows(run_dir)
        assert not (tmp_path / "again" / "wandb").exists()

    def test_its_config_does_not_say_where_it_was(self, run_dir: Path) -> None:
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        assert (config["run_dir"], config["ckpt_path"], config["seed_everything"]) == (None, None, 6)
        assert str(run_dir) not in (run_dir / "config.yaml").read_text()

    def test_is_not_overwritten(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
        message = refusal(fit_args(run_dir), capsys)
        assert [part for part in ("run_dir", str(run_dir), "--ckpt_path last") if part not in message] == []
        assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before

    def test_validate_takes_the_config_beside_the_checkpoint(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["validate", "--ckpt_path", str(run_dir / "last.ckpt")]) == 0
        shown = capsys.readouterr().out
        assert re.fullmatch(r"validation/train_levels_return +\d+\.\d\d\nvalidation/return +\d+\.\d\d\n", shown)

    def test_test_writes_a_report_and_prints_the_papers_table(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = run_dir / "last.ckpt"
        assert main(["test", f"--ckpt_path={checkpoint}", "--run_dir", str(tmp_path)]) == 0

        report = json.loads((tmp_path / "test.json").read_text())
        sets = report.pop("level_sets")
        assert report == {
            "method": "ppo",
            "game": "dodgeball",
            "distribution_mode": "easy",
            "checkpoint": str(checkpoint),
            "run_id": load(run_dir)[checkpoint_files.METADATA]["run_id"],
            "env_steps": 4 * ENV_STEPS,
            "greedy": False,
        }
        levels = {name: (row["num_levels"], row["start_level"], row["episodes"]) for name, row in sets.items()}
        assert levels == {"train_levels": (200, 0, 2), "full_distribution": (0, 0, 2), "random_policy": (0, 0, 2)}
        keys = "num_levels start_level episodes env_steps return_mean return_variance return_max return_min return_ci95"
        for row in sets.values():
            assert list(row) == [*keys.split(), "normalized_return", "level_complete_rate"]
            assert row["env_steps"] > 0
            assert row["normalized_return"] == pytest.approx((row["return_mean"] - 1.5) / 17.5)
            assert row["return_ci95"][0] <= row["return_mean"] <= row["return_ci95"][1]

        shown = capsys.readouterr().out
        for name in sets:
            assert re.search(rf"{name} .* -?\d+\.\d\d \(\d+\.\d\d\) \[-?\d+, -?\d+\] ", shown)

    def test_an_episode_of_test_is_played_again(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["test", "--ckpt_path", str(run_dir), "--run_dir", str(tmp_path)]) == 0
        with np.load(tmp_path / "episodes.npz") as episodes:
            seed, total, length = (episodes[name][3] for name in ("level_seed", "return", "length"))
        capsys.readouterr()

        assert main(["predict", "--replay", str(tmp_path), "--episode", "3"]) == 0

        video = tmp_path / "media" / "episode_3.mp4"
        told = f"episode 3 of full_distribution, level {seed}: return {total:g}, {length} env steps\nvideo   {video}\n"
        assert capsys.readouterr() == (told, "")
        with av.open(str(video)) as file:
            assert sum(1 for _ in file.decode(video=0)) == length

    def test_predict_writes_a_video_and_the_returns(self, run_dir: Path, tmp_path: Path) -> None:
        args = ["--ckpt_path", str(run_dir / "best.ckpt"), "--data.predict_episodes", "2", "--model.greedy", "true"]
        assert main(["predict", *args, "--run_dir", str(tmp_path)]) == 0

        played = json.loads((tmp_path / "media" / "episodes.json").read_text())
        assert (len(played["returns"]), len(played["lengths"])) == (2, 2)
        with av.open(str(tmp_path / "media" / "episodes.mp4")) as video:
            frames = [(frame.width, frame.height) for frame in video.decode(video=0)]
        assert len(frames) == max(played["lengths"])
        assert set(frames) == {(2 * 194 - 2, 192)}

    @pytest.mark.parametrize(
        ("subcommand", "options", "told"),
        [
            ("test", ["--data.game", "maze"], ["game dodgeball", "game maze"]),
            ("fit", ["--model", "PPODistillModule"], ["method ppo,", "method ppo_distill"]),
            ("predict", ["--model.network", "two_stack"], ["shape", "network"]),
            ("fit", ["--data.num_levels", "7"], ["num_levels 200", "7"]),
        ],
    )
    def test_does_not_go_on_as_another(
        self,
        subcommand: str,
        options: list[str],
        told: list[str],
        run_dir: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        args = [subcommand, "--ckpt_path", str(run_dir / "last.ckpt"), "--run_dir", str(tmp_path / "other"), *options]
        message = refusal(args, capsys)
        assert [part for part in ("ckpt_path", *told) if part not in message] == []
        assert os.listdir(tmp_path) == []

    def test_a_budget_in_which_no_episode_ends_is_named(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ["test", "--ckpt_path", str(run_dir / "last.ckpt"), "--run_dir", str(tmp_path)]
        assert "data.test_env_steps must be more" in refusal([*args, "--data.test_env_steps", "1"], capsys)
        assert not (tmp_path / "test.json").exists()

    def test_a_damaged_checkpoint_is_named_with_the_newest_good_one(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(run_dir / "config.yaml", tmp_path)
        shutil.copy(run_dir / "best.ckpt", tmp_path)
        (tmp_path / "last.ckpt").write_bytes((run_dir / "last.ckpt").read_bytes()[:5000])
        message = refusal(["test", "--ckpt_path", str(tmp_path / "last.ckpt")], capsys)
        told = [str(tmp_path / "last.ckpt"), "damaged or cut short", f"newest good one beside it is {tmp_path}/best"]
        assert [part for part in told if part not in message] == []


class TestAtari:
    @pytest.fixture
    def run_dir(self, runs: SharedRuns) -> Path:
        """A run of one iteration on breakout, called Breakout."""
        return runs.finished("ppo_atari", iterations=1, trainer__check_val_every_n_epoch=1)

    def test_options_that_are_not_given_are_the_atari_data_modules(self, empty_folder: Path) -> None:
        fitting = ["--model.minibatch_size", "256"]
        for args in (ATARI, [*PPO, "--data=AtariDataModule", *fitting]):
            data = RunCLI(args).datamodule
            assert (data.game, data.num_envs, data.num_steps, data.total_env_steps) == ("pong", 8, 128, 10_000_000)

    def test_a_config_of_procgens_lends_its_sizes(self, empty_folder: Path) -> None:
        args = ["fit", "--config", str(CONFIGS / "impala.yaml"), "--data", "lightning_rl.AtariDataModule"]
        data = RunCLI(args).datamodule
        assert (data.game, data.num_envs, data.num_actors, data.frame_stack) == ("pong", 32, 8, 4)

    def test_goes_under_the_games_name(self, empty_folder: Path) -> None:
        cli = RunCLI([*ATARI[:3], "--data.game", "MsPacman"])
        assert cli.run_dir.parent == Path("checkpoints/ppo/ms_pacman")

    def test_validation_is_of_the_one_level_set(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["validate", "--ckpt_path", str(run_dir / "last.ckpt")]) == 0
        assert re.fullmatch(r"validation/return +\d+\.\d\d\n", capsys.readouterr().out)
        [row] = read_metrics(run_dir / "metrics.csv")
        assert [key for key in row if key.startswith("validation/")] == ["validation/return"]

    def test_the_report_has_nulls_for_what_there_is_not(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = run_dir / "last.ckpt"
        assert main(["test", "--ckpt_path", str(checkpoint), "--run_dir", str(tmp_path)]) == 0

        report = json.loads((tmp_path / "test.json").read_text())
        assert (report["game"], report["distribution_mode"]) == ("breakout", None)
        assert list(report["level_sets"]) == ["full_distribution", "random_policy"]
        for row in report["level_sets"].values():
            assert (row["num_levels"], row["start_level"], row["env_steps"]) == (0, 0, 2 * 12)
            assert row["normalized_return"] == pytest.approx((row["return_mean"] - 1.7) / 28.8)
            assert row["level_complete_rate"] is None
        assert "ppo on breakout after 32 env steps" in capsys.readouterr().out

    def test_the_video_shows_one_frame_of_the_stack(self, run_dir: Path, tmp_path: Path) -> None:
        args = ["--ckpt_path", str(run_dir / "last.ckpt"), "--run_dir", str(tmp_path)]
        assert main(["predict", *args]) == 0

        with av.open(str(tmp_path / "media" / "episodes.mp4")) as video:
            frames = [(frame.width, frame.height) for frame in video.decode(video=0)]
        assert frames == [(240, 316)] * 12  # 80 × 3 columns; 105 × 3 rows, made even

    def test_does_not_go_on_as_another_game(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        args = ["fit", "--run_dir", str(run_dir), "--ckpt_path", "last"]
        assert "game breakout" in refusal([*args, "--data.game", "Pong"], capsys)
        assert "sticky_actions False, this run True" in refusal([*args, "--data.sticky_actions", "true"], capsys)


def test_wandb_mode_decides_and_metrics_csv_is_always_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fit(tmp_path, iterations=1, trainer__logger=None)
    assert not list(tmp_path.rglob("*.wandb"))
    assert len(read_metrics(tmp_path / "metrics.csv")) == 1


def test_sigterm_ends_at_the_boundary_with_status_143_and_a_resumable_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(fit_args(run_dir, iterations=10**6), tmp_path / "output.txt")
    wait_until(lambda: (run_dir / "last.ckpt").exists(), process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()

    assert process.exitcode == 143
    stopped = load(run_dir)["ProcgenDataModule"]["env_steps"]
    assert rows(run_dir)[-1]["env_steps"] == str(stopped)
    assert not (run_dir / "media").exists()
    fit(run_dir, "--ckpt_path", "last", iterations=stopped // ENV_STEPS + 1)
    assert [int(row["env_steps"]) for row in rows(run_dir)] == list(range(32, stopped + 33, 32))
    assert checkpoint_files.read(run_dir / "last.ckpt")["ProcgenDataModule"]["env_steps"] == stopped + 32


def test_a_signal_that_comes_before_everything_is_imported_ends_with_status_143(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "lightning_rl", *fit_args(tmp_path / "run")], cwd=ROOT)
    while not listens(process.pid, signal.SIGUSR1):
        time.sleep(0.001)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 143


@pytest.mark.parametrize("everyone", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sigterm_to_the_run_or_to_all_of_its_processes_leaves_nothing_undone(everyone: bool, tmp_path: Path) -> None:
    """Slurm signals W&B's process, too, which then logs nothing more."""
    run_dir = tmp_path / "run"
    args = fit_args(run_dir, iterations=10**6, trainer__logger=None)
    process = start(args, tmp_path / "output.txt", {"WANDB_MODE": "offline"})
    wait_until(lambda: (run_dir / "last.ckpt").exists(), process)
    for pid in [*(_descendants(process.pid or 0) if everyone else []), process.pid or 0]:
        os.kill(pid, signal.SIGTERM)
    process.join()

    assert process.exitcode == 143
    assert rows(run_dir)[-1]["env_steps"] == str(load(run_dir)["ProcgenDataModule"]["env_steps"])
    assert read_end(run_dir) == (True, 143) or everyone


def _descendants(pid: int) -> list[int]:
    found = [int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]
    return [*(inner for child in found for inner in _descendants(child)), *found]


@pytest.mark.slow
def test_in_a_sweep_the_run_has_the_sweeps_id_and_resumes_under_it(tmp_path: Path) -> None:
    sweep = {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "given1"}
    for iterations in (1, 2):
        args = fit_args(tmp_path, "--ckpt_path", "last", iterations=iterations, trainer__logger=None)
        process = start(args, tmp_path.with_suffix(".txt"), sweep)
        process.join()
        assert process.exitcode == 0
        assert load(tmp_path)[checkpoint_files.METADATA]["run_id"] == "given1"
    assert read_run_id(tmp_path) == "given1"
    assert read_end(tmp_path) == (False, 0)


def test_a_wandb_server_that_does_not_answer_neither_ends_nor_delays_a_run(tmp_path: Path) -> None:
    key = "0123456789" * 4
    silent = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": key}
    process = start(fit_args(tmp_path / "run", trainer__logger=None), tmp_path / "output.txt", silent)
    process.join(60)
    assert process.exitcode == 0
    told = (tmp_path / "output.txt").read_text()
    assert "W&B's http://127.0.0.1:9 does not answer: the run is logged offline, for `wandb sync`" in told
    logged = [row["env_steps"] for row in read_history(tmp_path / "run") if "loss/policy" in row]
    assert logged == [32, 64]


def test_under_slurm_lightning_does_not_requeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    numbers = dict.fromkeys(("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"), "1")
    for key, value in {**ids, **numbers, "SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "ppo"}.items():
        monkeypatch.setenv(key, value)
    environment = RunCLI(fit_args(tmp_path / "run")).trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue


def test_other_numbers_than_slurms_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID"), "0")
    numbers = dict.fromkeys(("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"), "1")
    for key, value in {**ids, **numbers, "SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "ppo"}.items():
        monkeypatch.setenv(key, value)

    message = refusal(fit_args(tmp_path / "run", trainer__devices=2, trainer__strategy="ddp"), capsys)

    assert "trainer.devices and trainer.num_nodes: You set `devices=2`" in message
    assert not (tmp_path / "run").exists()


class TestSimPLe:
    @pytest.fixture(autouse=True)
    def _few_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measures the world model on a few pieces of held-out play."""
        measured = partial(world_model_metrics, num_steps=8, num_rollouts=2)
        monkeypatch.setattr("lightning_rl.callbacks.world_model_report.world_model_metrics", measured)

    @pytest.fixture
    def simple_run(self, runs: SharedRuns, _few_windows: None) -> Path:
        return runs.finished("simple_cpu", data__num_envs=16, data__num_steps=2)

    def test_a_pass_is_a_run_with_its_pictures(self, simple_run: Path) -> None:
        checkpoint, (first, *later) = load(simple_run), rows(simple_run)
        assert int(checkpoint["state_dict"]["pass_index"]) == 1
        assert int(checkpoint["state_dict"]["world_model_updates"]) == 4 + 2
        assert int(checkpoint["state_dict"]["imagined_steps"]) == 2 * 2 * 5
        assert "loss/frames" in first
        assert "world_model/frame_error" in later[0]
        assert "world_model/reward_accuracy_50" not in later[0]  # no episode of two steps lasts for fifty
        assert [row["env_steps"] for row in (first, *later)] == ["32"] * 4 + ["64"]
        assert [row["imagined_steps"] for row in (first, *later)] == ["0", "0", "10", "20", "20"]
        assert ["imagined/reward" in row for row in (first, *later)] == [False, False, True, True, False]
        media = {path.name for path in (simple_run / "media").iterdir()}
        assert media >= {"imagined_32.mp4", "imagined.png", "episodes.mp4"}
        with av.open(str(simple_run / "media" / "imagined_32.mp4")) as video:
            assert video.streams.video[0].frames == 50

    def test_its_checkpoint_is_small_and_its_play_beside_it(self, simple_run: Path) -> None:
        played = sorted(path.name for path in (simple_run / "replay" / "rank0").iterdir())
        assert played == ["000000.pt", "000001.pt"]
        frames = 2 * 16 * 64 * 64 * 3
        assert (simple_run / "replay" / "rank0" / "000000.pt").stat().st_size > frames
        state = load(simple_run)["ProcgenDataModule"]["collectors"][0]["replay"]
        assert sum(len(digest) for digest in state["digests"]) == 2 * 64

    def test_it_is_tested_and_played(self, simple_run: Path, tmp_path: Path) -> None:
        judged = [
            "--ckpt_path",
            str(simple_run / "last.ckpt"),
            "--run_dir",
            str(tmp_path),
            "--trainer.accelerator",
            "cpu",
        ]
        config = ["--config", str(simple_run / "config.yaml")]
        assert main(["test", *config, *judged, "--data.test_episodes", "2"]) == 0
        assert json.loads((tmp_path / "test.json").read_text())["method"] == "simple"
        assert main(["predict", *config, *judged, "--data.predict_episodes", "1"]) == 0
        with av.open(str(tmp_path / "media" / "episodes.mp4")) as video:
            assert video.streams.video[0].height == 3 * 64  # the newest frame of the stack alone

    def test_a_world_model_of_an_older_recipe_goes_on_where_nothing_of_it_has_changed_and_else_is_refused(
        self, simple_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = Path(shutil.copytree(simple_run, tmp_path / "run"))
        checkpoint = load(copy)
        assert checkpoint[checkpoint_files.METADATA].pop("recipe") == 2
        torch.save(checkpoint, copy / "last.ckpt")
        options = {"config": "simple_cpu", "iterations": 3, "data__num_envs": 16, "data__num_steps": 2}
        args = fit_args(copy, "--ckpt_path", "last", **options)  # type: ignore[arg-type]  # all are objects

        assert RunCLI(args).checkpoint == copy / "last.ckpt"
        changed = ["--model.world_model.optimizer", "adafactor"]
        message = refusal([*args, *changed], capsys)
        judged = RunCLI(
            ["validate", "--config", str(copy / "config.yaml"), "--ckpt_path", str(copy / "last.ckpt"), *changed]
        )

        assert f"ckpt_path: the world model of {copy / 'last.ckpt'} learned by recipe 1" in message
        assert "differs in Adafactor; train anew" in message
        assert judged.checkpoint == copy / "last.ckpt"

    def test_ppo_goes_on_with_its_policy(self, simple_run: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "model__network": "two_conv",
            "data__frame_stack": 4,
            "policy_from": simple_run / "last.ckpt",
        }
        args = fit_args(tmp_path / "ppo", config="ppo", iterations=1, **options)
        cli = RunCLI(args)
        saved = load(simple_run)["state_dict"]
        assert all(
            torch.equal(saved[f"network.{name}"], tensor) for name, tensor in cli.model.network.state_dict().items()
        )
        assert main(args) == 0

    def test_a_policy_of_another_shape_is_refused(self, simple_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refusal([*PPO, "--policy_from", str(simple_run / "last.ckpt")], capsys)
        assert "policy_from: " in message
        assert "(--model.network, channels, hidden, ...) and --data.frame_stack" in message

    @pytest.mark.parametrize("damage", ["missing", "truncated"])
    def test_play_that_is_not_there_as_it_was_is_refused(
        self, damage: str, simple_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = Path(shutil.copytree(simple_run, tmp_path / "run"))
        played = copy / "replay" / "rank0" / "000000.pt"
        if damage == "missing":
            played.unlink()
        else:
            played.write_bytes(played.read_bytes()[:-1])
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        options = {"config": "simple_cpu", "iterations": 3, "data__num_envs": 16, "data__num_steps": 2}
        message = refusal(fit_args(copy, "--ckpt_path", "last", **options), capsys)  # type: ignore[arg-type]  # all are objects
        assert f"ckpt_path: its real frames {played} are " in message
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before

    @pytest.mark.slow
    def test_a_run_goes_on_elsewhere_with_a_copy_of_what_was_played(self, simple_run: Path, tmp_path: Path) -> None:
        options = {"config": "simple_cpu", "iterations": 3, "data__num_envs": 16, "data__num_steps": 2}
        fit(tmp_path, "--ckpt_path", str(simple_run / "last.ckpt"), **options)
        assert len(list((tmp_path / "replay" / "rank0").iterdir())) == 3
        assert len(list((simple_run / "replay" / "rank0").iterdir())) == 2
