import errno
import os
from pathlib import Path
from typing import IO

import pytest
import yaml

from lightning_rl.cli.program import main
from lightning_rl.runs import atomic_files
from tests.support.runs import ENV_STEPS, fit, fit_args, rows


def test_a_resumed_run_says_what_differs_and_cuts_metrics_to_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, iterations=2)
    metrics = tmp_path / "metrics.csv"
    written = metrics.read_text()
    metrics.write_text(f"{written}96,1.0\n128,0.5")  # logged, then killed before the checkpoint, in mid-line

    fit(tmp_path, "--ckpt_path", "last", iterations=3, model__entropy_weight=0.02)

    told = [record.getMessage() for record in caplog.records if "when this run was last started" in record.getMessage()]
    assert told == [
        "data.init_args.total_env_steps was 64 when this run was last started and is 96 now",
        "model.init_args.entropy_weight was 0.01 when this run was last started and is 0.02 now",
    ]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["init_args"]["entropy_weight"] == 0.02
    assert [row["env_steps"] for row in rows(tmp_path)] == ["32", "64", "96"]
    assert metrics.read_text().startswith(written)


def test_a_resumed_run_learns_with_the_options_that_it_is_given(tmp_path: Path) -> None:
    fit(tmp_path, config="impala_vae", iterations=1)

    options = {"model__learning_rate": 2e-3, "model__adam_epsilon": 0.1, "model__vae__learning_rate": 3e-4}
    checkpoint = fit(tmp_path, "--ckpt_path", "last", config="impala_vae", iterations=2, **options)

    agent, autoencoder = checkpoint["optimizer_states"][0]["param_groups"]
    assert (agent["lr"], agent["eps"]) == (2e-3, 0.1)
    assert (autoencoder["lr"], autoencoder["eps"]) == (3e-4, 1e-8)


def test_fast_dev_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(fit_args(tmp_path / "run", trainer__fast_dev_run="true", trainer__logger=None)) == 0
    assert list(tmp_path.iterdir()) == []


def kill_after_the_first_boundary(run_dir: Path) -> None:
    """As if a run of two iterations had been."""
    (run_dir / "previous.ckpt").replace(run_dir / "last.ckpt")


def test_a_config_that_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    fit(tmp_path, iterations=2)
    kill_after_the_first_boundary(tmp_path)
    config = tmp_path / "config.yaml"
    before = config.stat()

    checkpoint = fit(tmp_path, "--ckpt_path", "last", iterations=2)

    assert checkpoint["ProcgenDataModule"]["env_steps"] == 2 * ENV_STEPS

    assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_config_that_does_not_fit_on_the_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fit(tmp_path, iterations=1)
    before = (tmp_path / "config.yaml").read_bytes()
    monkeypatch.setattr(atomic_files, "flush", full)

    assert main(fit_args(tmp_path, "--ckpt_path", "last", iterations=2)) == 1

    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("damaged", [b"model: {\xff", b"model: {", b"\0" * 9], ids=["bytes", "yaml", "zeros"])
def test_an_unreadable_config_is_told_and_replaced(
    damaged: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, iterations=2)
    kill_after_the_first_boundary(tmp_path)
    config = tmp_path / "config.yaml"
    before = config.read_bytes()
    config.write_bytes(damaged)

    fit(tmp_path, "--ckpt_path", "last", iterations=2)

    assert f"{config} is unreadable and is replaced" in [record.getMessage() for record in caplog.records]
    assert config.read_bytes() == before
