"""The studies' runs: what is left out, what goes on, and that `fit` takes their options."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_rl.cli.command import RunCLI
from tests.benchmarks import measure, studies

FIRST = next(studies.runs()).name


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were given; a run of seed 2 is trained by somebody else."""
    given: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        given.append(command[3:])
        folder = Path(command[command.index("--run_dir") + 1]) if "--run_dir" in command else None
        if folder is not None and folder.name.endswith("_2"):
            return subprocess.CompletedProcess(command, 1)
        if folder is not None:
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(yaml.safe_dump({"run_dir": str(folder), "seed_everything": 1}))
            (folder / "metrics.csv").write_text("env_steps\n5\n")
        else:
            checkpoint = Path(command[command.index("--ckpt_path") + 1])
            (checkpoint.parent / "test.json").write_text(json.dumps({"checkpoint": str(checkpoint), "method": "ppo"}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return given


def test_what_is_kept_is_left_out_and_what_another_process_trains_is_passed_over(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--runs", str(tmp_path / "runs"), "--kept", str(tmp_path / "kept"), "--only", "ppo_coinrun"]
    studies.main([*args, "--episodes", "7"])
    assert [command[0] for command in commands] == ["fit", "test", "fit", "fit", "test"]
    assert commands[0][-4:] == ["--run_dir", str(tmp_path / "runs" / FIRST), "--ckpt_path", "last"]
    assert commands[1][-2:] == ["--data.test_episodes", "7"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["ppo_coinrun_1", "ppo_coinrun_3"]
    assert capsys.readouterr().out.startswith("ppo_coinrun_2 is not done: ")

    studies.main(args)
    assert [command[0] for command in commands[5:]] == ["fit"]


def test_no_path_of_this_machine_is_kept(commands: list[list[str]], tmp_path: Path) -> None:
    studies.main(["--runs", str(tmp_path / "runs"), "--kept", str(tmp_path / "kept"), "--only", FIRST])
    kept = tmp_path / "kept" / FIRST
    assert sorted(path.name for path in kept.iterdir()) == ["config.yaml", "metrics.csv", "test.json"]
    assert [path.name for path in kept.iterdir() if str(tmp_path) in path.read_text()] == []
    assert json.loads((kept / "test.json").read_text()) == {"checkpoint": "last.ckpt", "method": "ppo"}
    assert len(commands) == 2


def test_what_is_missing_is_listed_and_not_trained(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.main(["--runs", str(tmp_path), "--kept", str(tmp_path), "--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [run.name for run in studies.runs()]
    assert len(set(names)) == len(names)
    assert commands == []


@pytest.mark.slow
@pytest.mark.parametrize("study", studies.STUDIES, ids=lambda study: f"{study.name}-{study.games[0]}")
def test_fit_takes_the_options(study: studies.Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(measure.REPOSITORY)
    run = next(studies.runs((study,)))
    cli = RunCLI(["fit", *run.options, "--run_dir", str(tmp_path)])
    assert cli.datamodule.game == study.games[0]
