"""What a full or write-protected disk does to a run: it is told, nothing is lost, and the run goes on."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from lightning_rl.cli.program import main
from tests.support import small_disks
from tests.support.runs import ENV_STEPS, fit_args, load, print_into, rows, unlike
from tests.support.shared_runs import SharedRuns

pytestmark = pytest.mark.skipif(not small_disks.work_here(), reason="disks of a few megabytes need user namespaces")


class Folders(NamedTuple):
    """Where a small disk is mounted, and what remains of it."""

    disk: Path
    kept: Path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders(tmp_path / "disk", tmp_path / "kept")
    for folder in found:
        folder.mkdir()
    return found


def told_and_status(told: Path, args: list[str]) -> None:
    """Runs the command; what it says goes into a file, and its exit status into one beside it."""
    print_into(told)
    told.with_suffix(".status").write_text(str(main(args)))


def goes_on_without_saving(folders: Folders, size: int, args: list[str]) -> None:
    """The disk of the run takes two checkpoints, but not the third one beside them; that of `TMPDIR` takes nothing."""
    tmp, run_dir = folders.kept.with_name("tmp"), folders.disk / "run"
    tmp.mkdir()
    small_disks.mount(folders.disk, f"size={5 * size // 2}")
    small_disks.mount(tmp, "size=64k")
    small_disks.fill(tmp)
    os.environ |= {"TMPDIR": str(tmp), "WANDB_MODE": "offline"}
    tempfile.tempdir = None  # the environment says it now

    told_and_status(folders.kept / "first.txt", args)
    keep(run_dir, folders.kept)

    small_disks.remount(folders.disk, f"size={20 * size}")
    told_and_status(folders.kept / "second.txt", args)
    (folders.kept / "run").mkdir()
    keep(run_dir, folders.kept / "run")


def keep(run_dir: Path, folder: Path) -> None:
    for name in ("last.ckpt", "metrics.csv"):
        shutil.copy(run_dir / name, folder)


@pytest.mark.slow
def test_on_a_full_disk_a_run_goes_on_without_saving_and_a_resumed_one_ends_with_the_same_bits(
    folders: Folders, tmp_path: Path, runs: SharedRuns
) -> None:
    straight, (disk, kept) = runs.finished("ppo", iterations=4), folders
    size = (straight / "last.ckpt").stat().st_size
    args = fit_args(disk / "run", "--ckpt_path", "last", iterations=4, trainer__logger=None)

    small_disks.alone(goes_on_without_saving, tmp_path / "output.txt", folders, size, args)

    told = (kept / "first.txt").read_text()
    assert f"{disk}/run/last.ckpt was not saved" in told
    assert (kept / "first.status").read_text() == "1"  # its end is not on the disk
    assert f"lightning-rl: {disk}/run/last.ckpt is older than the end of the run" in told
    assert "which could not be saved; to continue" in told
    assert "No space left on device" in told
    assert "Traceback" not in told
    assert load(kept)["ProcgenDataModule"]["env_steps"] == 2 * ENV_STEPS
    assert [row["env_steps"] for row in rows(kept)] == ["32", "64", "96", "128"]
    assert (kept / "second.status").read_text() == "0"
    assert unlike(load(straight), load(kept / "run")) == []
    assert rows(kept / "run") == rows(straight)


def is_continued_without_a_byte_left(folders: Folders, finished: Path, args: list[str]) -> None:
    """A run that was killed after its first boundary, while it logged the second; pictures are due, too."""
    run_dir, config = folders.disk / "run", folders.kept / "config.yaml"
    small_disks.mount(folders.disk, "size=256m")
    shutil.copytree(finished, run_dir)
    (run_dir / "previous.ckpt").replace(run_dir / "last.ckpt")
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("96,1")
    shutil.copy(run_dir / "config.yaml", config)
    small_disks.fill(folders.disk)

    told_and_status(folders.kept / "told.txt", args)

    keep(run_dir, folders.kept)
    assert (run_dir / "config.yaml").read_bytes() == config.read_bytes()


@pytest.mark.slow
def test_a_run_that_is_continued_without_a_byte_left_goes_on_to_its_end(
    folders: Folders, tmp_path: Path, runs: SharedRuns
) -> None:
    disk, kept = folders
    args = fit_args(disk / "run", "--ckpt_path", "last", config="impala_vae")

    small_disks.alone(
        is_continued_without_a_byte_left, tmp_path / "output.txt", folders, runs.finished("impala_vae"), args
    )

    told = (kept / "told.txt").read_text()
    for name in ("media/reconstructions.png", "media/latent_traversal.png", "media/episodes.mp4", "last.ckpt"):
        assert re.search(f"{disk}/run/{name} was not (written|saved) .*No space left on device", told)
    assert "Traceback" not in told
    assert load(kept)["ProcgenDataModule"]["env_steps"] == ENV_STEPS
    assert (kept / "told.status").read_text() == "1"  # its end is not on the disk


def begins_on_a_write_protected_disk(folder: Path, told: Path, args: list[str]) -> None:
    small_disks.mount(folder, "ro")
    told_and_status(told, args)


def test_a_write_protected_disk_is_told_in_one_line(folders: Folders, tmp_path: Path) -> None:
    disk, kept = folders

    small_disks.alone(
        begins_on_a_write_protected_disk, tmp_path / "output.txt", disk, kept / "told.txt", fit_args(disk / "run")
    )

    assert (kept / "told.status").read_text() == "2"
    assert (kept / "told.txt").read_text() == (
        f"lightning-rl: run_dir: {disk}/run cannot be written; give a folder that you may write to\n"
    )
