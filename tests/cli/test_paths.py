"""Paths with blanks, brackets, quotes and ~: taken as they are meant, and shown so that they can be used again."""

import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.config_files import with_run_config
from lightning_rl.cli.program import _status_of, main
from lightning_rl.errors import ActorError
from tests.support.command_lines import refusal
from tests.support.methods import CONFIGS
from tests.support.runs import fit, fit_args, load

PPO = ["fit", "--config", str(CONFIGS / "ppo.yaml")]
ODD = "exp[seed=1] a'b [/bold] with a name that is longer than a line of a terminal, or of eighty characters at least"


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths")
    with (folder / "printed.txt").open("w") as printed, redirect_stdout(printed):
        fit(folder / ODD, iterations=1, model__network="two_conv")
    return folder / ODD


def test_what_comes_next_can_be_pasted_into_a_shell(odd_run: Path) -> None:
    printed = (odd_run.parents[1] / "printed.txt").read_text().splitlines()
    [following] = [line for line in printed if line.startswith("next:")]
    assert shlex.split(following)[1:] == ["lightning-rl", "test", "--ckpt_path", str(odd_run / "last.ckpt")]


def test_predict_shows_where_its_files_are(odd_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path", str(odd_run / "last.ckpt")]) == 0
    video, returns = odd_run / "media" / "episodes.mp4", odd_run / "media" / "episodes.json"
    assert capsys.readouterr().out.splitlines()[1:] == [f"video   {video}", f"returns {returns}"]
    assert video.exists()
    assert returns.exists()


def test_how_to_continue_after_a_failure_can_be_pasted_into_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: RunCLI) -> None:
        raise ActorError("actor 0 died")

    cli = RunCLI.__new__(RunCLI)  # what builds it is not needed here
    cli.run_dir = Path("runs/a [1]")
    monkeypatch.setattr(RunCLI, "run", fail)
    monkeypatch.chdir(tmp_path)
    assert _status_of(cli) == 1
    assert "nothing is saved: start again with another --run_dir" in capsys.readouterr().err
    cli.run_dir.mkdir(parents=True)
    (cli.run_dir / "last.ckpt").touch()
    assert _status_of(cli) == 1
    assert "--run_dir 'runs/a [1]' --ckpt_path last" in capsys.readouterr().err


class TestHome:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(tmp_path)
        return home

    def test_in_a_config_is_the_users(self, home: Path) -> None:
        (home / "here.yaml").write_text("run_dir: ~/run\n")
        cli = RunCLI([*PPO, "--config", str(home / "here.yaml")])
        assert cli.run_dir == home / "run"

    def test_in_an_option_is_the_users(self, home: Path, odd_run: Path) -> None:
        (home / "run").symlink_to(odd_run)
        options = ["--model.network", "two_conv", "--data.game", "dodgeball"]
        cli = RunCLI(["test", *PPO[1:], *options, "--ckpt_path=~/run/last.ckpt", "--run_dir=~/judged"])
        assert (cli.checkpoint, cli.run_dir) == (home / "run" / "last.ckpt", home / "judged")
        cli = RunCLI([*PPO, *options, "--policy_from=~/run/last.ckpt", "--run_dir=~/new"])
        assert cli.run_dir == home / "new"

    def test_of_a_config_is_the_users(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (home / "large.yaml").write_text("#" * 1_000_001)
        assert "at most 1000000 bytes" in refusal([*PPO, "--config=~/large.yaml"], capsys)
        (home / "atari.yaml").write_text("data: {class_path: lightning_rl.AtariDataModule}")
        assert RunCLI([*PPO, "--config=~/atari.yaml", "--model.minibatch_size=256"]).datamodule.game == "pong"

    @pytest.mark.parametrize(
        "named", [["--run_dir=~/run", "--ckpt_path=last"], ["--ckpt_path=~/run/last.ckpt"], ["--ckpt_path=~/run"]]
    )
    def test_of_a_run_is_where_its_config_is_found(self, named: list[str], home: Path) -> None:
        (home / "run").mkdir()
        (home / "run" / "config.yaml").write_text("{}")
        config = str(home / "run" / "config.yaml")
        assert with_run_config(["test", *named]) == ["test", "--config", config, *named]
        greedy = [*named, "--model.greedy", "true"]
        assert with_run_config(["test", *greedy]) == ["test", "--config", config, *greedy]


@pytest.mark.parametrize("key", ["run_dir", "ckpt_path", "policy_from"])
def test_an_empty_path_is_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an option has it whose value is an environment variable that is not set."""
    monkeypatch.chdir(tmp_path)
    assert f"{key} must be a path, found an empty text" in refusal([*PPO, f"--{key}", ""], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_empty_checkpoint_is_refused_before_a_missing_config_is(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ckpt_path must be a path, found an empty text" in refusal([command, "--ckpt_path", ""], capsys)


class TestARunFolderAsACheckpoint:
    def test_is_its_last_one(self, odd_run: Path, tmp_path: Path) -> None:
        for named in (str(odd_run), f"{odd_run}/"):
            cli = RunCLI(with_run_config(["test", "--ckpt_path", named]))
            assert (cli.checkpoint, cli.run_dir) == (odd_run / "last.ckpt", odd_run)
        cli = RunCLI(with_run_config(["fit", "--ckpt_path", str(odd_run), "--run_dir", str(tmp_path / "on")]))
        assert (cli.checkpoint, cli.run_dir) == (odd_run / "last.ckpt", tmp_path / "on")

    def test_lends_its_policy(self, odd_run: Path, tmp_path: Path) -> None:
        args = fit_args(tmp_path / "new", model__network="two_conv", policy_from=odd_run)
        weights = RunCLI(args).model.state_dict()
        assert all((weights[name] == tensor).all() for name, tensor in load(odd_run)["state_dict"].items())

    def test_without_one_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({}))
        args = [*PPO, "--run_dir", str(tmp_path / "run")]
        assert f"ckpt_path: {tmp_path}/last.ckpt is not there" in refusal([*args, "--ckpt_path", str(tmp_path)], capsys)
        assert f"policy_from: {tmp_path}/last.ckpt is not there" in refusal(
            [*args, "--policy_from", str(tmp_path)], capsys
        )
