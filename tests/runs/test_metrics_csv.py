import errno
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_rl.errors import UsageError
from lightning_rl.runs.metrics_csv import MetricsCSV, read_metrics
from lightning_rl.runs.wandb_run import end_run, log_media, use_env_steps_axis
from tests.support.full_disk import RememberingWandb
from tests.support.runs import started
from tests.support.wandb_reader import read_history, read_run_id, read_step_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")  # WandbLogger sets it for the whole process; this puts it back
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


def test_no_file_before_the_first_row(path: Path) -> None:
    MetricsCSV(path).log_hyperparams({"gamma": 0.999})
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"step,loss\n1,0.5\n", "expected 'env_steps' as the first column of a metrics.csv, found 'step'"),
        (b"env_steps,a\nmany,0.5\n", "'many'"),
        (b"env_steps,epoch\n32,0.0\n", "'0.0'"),
        (b"env_steps,a\n,0.5\n", "env_steps"),
        (b"\xff\xfe\x00\n", "can't decode"),
    ],
)
def test_a_file_that_no_run_has_written_is_refused_and_left(content: bytes, found: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    message = r"metrics\.csv must be a run's curve, to be continued; found another file"
    with pytest.raises(UsageError, match=rf"{message} \(.*{re.escape(found)}.*\): move it away$"):
        MetricsCSV(path)
    assert path.read_bytes() == content


def test_each_row_is_on_disk_when_logged_with_env_steps_first_and_whole(path: Path) -> None:
    logger = MetricsCSV(path)
    logger.log_metrics({"loss/policy": 0.5, "env_steps": 16384.0, "epoch": 0}, step=3)
    assert path.read_text() == "env_steps,loss/policy,epoch\n16384,0.5,0\n"
    logger.log_metrics({"env_steps": 32768.0, "epoch": 1, "loss/policy": -0.25}, step=6)
    assert path.read_text() == "env_steps,loss/policy,epoch\n16384,0.5,0\n32768,-0.25,1\n"


def test_floats_read_back_as_the_same_float(path: Path) -> None:
    values = {"a": 1 / 3, "b": 1e-45, "c": 12345678901.125, "d": float("inf")}
    MetricsCSV(path).log_metrics({"env_steps": 1, **values})
    (row,) = read_metrics(path)
    assert {key: float(row[key]) for key in values} == values


def test_a_key_that_appears_later_adds_a_last_column_and_keeps_the_rows(path: Path) -> None:
    logger = MetricsCSV(path)
    logger.log_metrics({"env_steps": 1, "a": 0.5})
    logger.log_metrics({"env_steps": 2, "b": 1.5})
    logger.log_metrics({"env_steps": 3, "a": 2.5})
    assert path.read_text() == "env_steps,a,b\n1,0.5,\n2,,1.5\n3,2.5,\n"
    assert read_metrics(path)[1] == {"env_steps": "2", "b": "1.5"}
    assert os.listdir(path.parent) == ["metrics.csv"]


def test_metrics_without_env_steps_are_no_row(path: Path) -> None:
    logger = MetricsCSV(path)
    logger.log_metrics({"hp_metric": -1})
    logger.log_metrics({"env_steps": 1, "a": 0.5})
    logger.log_metrics({"test/return": 3.0})
    assert path.read_text() == "env_steps,a\n1,0.5\n"


def test_other_ranks_write_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    MetricsCSV(path).log_metrics({"env_steps": 1})
    assert not path.exists()


def test_a_resumed_run_takes_over_the_columns(path: Path) -> None:
    MetricsCSV(path).log_metrics({"env_steps": 1, "a": 0.5, "b": 1.5})
    resumed = MetricsCSV(path)
    resumed.log_metrics({"env_steps": 2, "c": 3.5, "b": 2.5})
    assert path.read_text() == "env_steps,a,b,c\n1,0.5,1.5,\n2,,2.5,3.5\n"


def test_truncation_leaves_neither_gap_nor_duplicate_after_resuming(path: Path) -> None:
    killed = MetricsCSV(path)
    for env_steps in (100, 200, 300, 400):
        killed.log_metrics({"env_steps": env_steps, "a": env_steps / 8})
    resumed = MetricsCSV(path)
    resumed.truncate_after(200, epochs=9)
    resumed.log_metrics({"env_steps": 300, "a": 37.5})
    assert path.read_text() == "env_steps,a\n100,12.5\n200,25.0\n300,37.5\n"


def test_truncation_drops_rows_of_later_epochs_in_which_nothing_was_played(path: Path) -> None:
    killed = MetricsCSV(path)
    for epoch in range(4):
        killed.log_metrics({"env_steps": 100, "a": epoch / 8, "epoch": epoch})
    MetricsCSV(path).truncate_after(100, epochs=2)
    assert path.read_text() == "env_steps,a,epoch\n100,0.0,0\n100,0.125,1\n"


@pytest.mark.parametrize("beyond", ["", "300,37.5\n", "300,37.5\n400,5"], ids=["nothing", "a row", "a torn line, too"])
def test_truncation_needs_no_room_on_the_disk(path: Path, beyond: str) -> None:
    killed = MetricsCSV(path)
    for env_steps in (100, 200):
        killed.log_metrics({"env_steps": env_steps, "a": env_steps / 8})
    kept, partial = path.stat(), path.with_name(".metrics.csv.partial")
    with path.open("a") as file:
        file.write(beyond)
    partial.symlink_to("/dev/full")

    resumed = MetricsCSV(path)
    resumed.truncate_after(200, epochs=9)

    assert path.read_text() == "env_steps,a\n100,12.5\n200,25.0\n"
    assert beyond or path.stat().st_mtime_ns == kept.st_mtime_ns
    resumed.log_metrics({"env_steps": 300, "a": 37.5})
    assert path.stat().st_ino == kept.st_ino  # the columns are known: the row was appended
    partial.unlink()
    resumed.log_metrics({"env_steps": 400, "b": 0.5})
    assert path.read_text() == "env_steps,a,b\n100,12.5,\n200,25.0,\n300,37.5,\n400,,0.5\n"


def test_truncation_without_a_file_makes_none(path: Path) -> None:
    MetricsCSV(path).truncate_after(100, epochs=9)
    assert not path.exists()


@pytest.mark.parametrize("truncates", [True, False])
def test_a_torn_last_line_is_dropped_even_if_it_looks_complete(path: Path, *, truncates: bool) -> None:
    MetricsCSV(path).log_metrics({"env_steps": 100, "a": 0.5})
    with path.open("a") as file:
        file.write("200,0.7")  # of 0.75
    resumed = MetricsCSV(path)
    if truncates:
        resumed.truncate_after(1000, epochs=9)
        assert path.read_text() == "env_steps,a\n100,0.5\n"
    resumed.log_metrics({"env_steps": 200, "a": 0.75})
    assert path.read_text() == "env_steps,a\n100,0.5\n200,0.75\n"


def widened(path: Path) -> None:
    """Is killed where the file with the new column takes the place of the old one."""
    logger = MetricsCSV(path)
    logger.log_metrics({"env_steps": 1, "a": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        logger.log_metrics({"env_steps": 2, "b": 1.5})


def test_a_kill_while_a_column_is_added_loses_no_earlier_row(path: Path) -> None:
    killed = started(widened, path)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert path.read_text() == "env_steps,a\n1,0.5\n"
    MetricsCSV(path).log_metrics({"env_steps": 2, "b": 1.5})
    assert path.read_text() == "env_steps,a,b\n1,0.5,\n2,,1.5\n"
    assert os.listdir(path.parent) == ["metrics.csv"]


@pytest.mark.parametrize("key", ["a", "b"], ids=["known column", "new column"])
def test_a_full_disk_warns_and_the_row_comes_with_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logger = MetricsCSV(path)
    logger.log_metrics({"env_steps": 1, "a": 0.5})
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=r"metrics.csv cannot be written .*No space left"):
            logger.log_metrics({"env_steps": 2, key: 1.5})
    assert path.read_text() == "env_steps,a\n1,0.5\n"
    assert os.listdir(path.parent) == ["metrics.csv"]
    logger.log_metrics({"env_steps": 3, key: 2.5})
    assert [(row["env_steps"], row.get(key)) for row in read_metrics(path)[1:]] == [("2", "1.5"), ("3", "2.5")]


def test_a_file_deleted_under_a_run_is_begun_again(path: Path) -> None:
    logger = MetricsCSV(path)
    logger.log_metrics({"env_steps": 1, "a": 0.5})
    path.unlink()
    with pytest.warns(UserWarning, match="No such file"):
        logger.log_metrics({"env_steps": 2, "a": 1.5})
    logger.log_metrics({"env_steps": 3, "a": 2.5})
    assert path.read_text() == "env_steps,a\n2,1.5\n3,2.5\n"


@pytest.mark.usefixtures("offline_wandb")
def test_wandb_plots_everything_against_env_steps(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, project="test", offline=True, id="abc123")
    use_env_steps_axis(logger)
    rows = [{"env_steps": 2.0**24 + step, "episode/return": step / 8} for step in range(400)]
    for step, row in enumerate(rows):
        logger.log_metrics(row, step=step)
    wandb.finish()
    assert read_run_id(tmp_path) == "abc123"
    assert read_step_metrics(tmp_path)["*"] == "env_steps"
    history = read_history(tmp_path)
    assert [{key: row[key] for key in ("env_steps", "episode/return")} for row in history] == rows
    assert max(len(file.read_bytes()) for file in tmp_path.rglob("*.wandb")) > 2 * 32_768  # records cross blocks


def test_wandb_is_given_no_row_without_media() -> None:
    wandb_logger = RememberingWandb()
    log_media(wandb_logger, env_steps=7, videos=[], pictures=[])
    assert wandb_logger.logged == []


class FullDisk(RememberingWandb):
    """Its copies of pictures do not fit on the disk, and neither does the end of its log."""

    def log(self, row: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish(self, exit_code: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_under_wandb_warns(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="W&B could not write .*No space left"):
        log_media(FullDisk(), env_steps=7, videos=[], pictures=[tmp_path / "a.png"])
    with pytest.warns(UserWarning, match="W&B could not write .*No space left"):
        end_run(FullDisk(), preempted=False)


@pytest.mark.usefixtures("offline_wandb")
def test_other_ranks_start_no_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    use_env_steps_axis(WandbLogger(save_dir=tmp_path, project="test", offline=True))
    assert wandb.run is None
