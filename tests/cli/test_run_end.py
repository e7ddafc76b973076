"""`fit --test_at_end`: the run ends with what `lightning-rl test` says of it."""

import os
import signal
from pathlib import Path

import pytest

from lightning_rl.cli.program import main
from lightning_rl.runs.signals import STOPPED
from tests.support.runs import fit, fit_args, start, start_ranks, wait_until
from tests.support.shared_runs import SharedRuns

TESTED = ("--test_at_end", "true")
LAST = ("--ckpt_path", "last")


def test_a_run_that_is_complete_is_tested_as_by_hand(
    tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.copied(tmp_path / "run", "ppo")
    report = run / "test.json"
    capsys.readouterr()  # of the run, where it was trained just now

    assert main(fit_args(run, *LAST, *TESTED)) == 0
    at_end, shown = report.read_bytes(), capsys.readouterr()
    report.unlink()
    assert main(["test", "--ckpt_path", str(run / "last.ckpt")]) == 0

    assert report.read_bytes() == at_end
    assert shown.out == capsys.readouterr().out
    assert "nothing to do" in shown.err


@pytest.mark.slow
def test_training_ends_with_the_table_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    fit(run, *TESTED, trainer__logger=None)  # W&B, offline
    shown = capsys.readouterr().out

    assert shown.index("random_policy") < shown.index(f"checkpoint {run}/last.ckpt")
    assert shown.endswith(f"next:      lightning-rl play --ckpt_path {run}/last.ckpt\n")
    assert len([path for path in (run / "wandb").iterdir() if path.name.startswith("offline-run")]) == 1
    at_end = (run / "test.json").read_bytes()
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert (run / "test.json").read_bytes() == at_end


@pytest.mark.slow
def test_a_stopped_run_is_not_tested(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    process = start(fit_args(run, *TESTED, iterations=10**6), output)
    wait_until(lambda: (run / "last.ckpt").exists(), process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == STOPPED
    assert not (run / "test.json").exists()


@pytest.mark.slow
def test_two_ranks_share_the_episodes(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    ranks = start_ranks(fit_args(run, *TESTED, trainer__devices=2, trainer__strategy="ddp"), output)
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0], output.with_suffix(".0").read_text()
    assert output.with_suffix(".0").read_text().count("random_policy") == 1
    assert "random_policy" not in output.with_suffix(".1").read_text()
    assert (run / "test.json").exists()
