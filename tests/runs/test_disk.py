"""What a full or write-protected disk does to a run: it is told, nothing is lost, and the run goes on."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ENV_STEPS, fit, fit_args, load, rows, unlike

ROOT = Path(__file__).parents[2]
IN_A_NAMESPACE = ["unshare", "-Urm"]


def namespaces_work() -> bool:
    """Whether this user may mount a small disk that nobody else sees."""
    if shutil.which("unshare") is None:
        return False
    mount = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not namespaces_work(), reason="disks of a few megabytes need user namespaces")


def in_a_namespace(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script whose mounts nobody else sees and which vanish with it; `$RUN` is the command."""
    command = f"{sys.executable} -m lightning_rl"
    everything = os.environ | {"PYTHONPATH": str(ROOT), "RUN": command} | environment
    return subprocess.run(
        [*IN_A_NAMESPACE, "sh", "-ec", script, "sh", *arguments],
        env=everything,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_namespaces
def test_on_a_full_disk_a_run_goes_on_without_saving_and_a_resumed_one_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The disk of the run takes two checkpoints, but not the third one beside them; that of `TMPDIR` takes nothing."""
    disk, tmp, kept = (tmp_path / name for name in ("disk", "tmp", "kept"))
    for folder in (disk, tmp, kept):
        folder.mkdir()
    straight = fit(tmp_path / "straight", iterations=4)
    size = (tmp_path / "straight" / "last.ckpt").stat().st_size
    args = fit_args(disk / "run", "--ckpt_path", "last", iterations=4, trainer__logger=None)

    done = in_a_namespace(
        f"""
        mount -t tmpfs -o size={5 * size // 2} none {disk}
        mount -t tmpfs -o size=64k none {tmp}
        dd if=/dev/zero of={tmp}/full bs=64k count=1 2>/dev/null
        $RUN "$@" 2> {kept}/first.txt || echo $? > {kept}/status
        cp {disk}/run/last.ckpt {disk}/run/metrics.csv {kept}
        mount -o remount,size={20 * size} {disk}
        $RUN "$@" 2> {kept}/second.txt
        mkdir {kept}/run
        cp {disk}/run/last.ckpt {disk}/run/metrics.csv {kept}/run
        """,
        *args,
        TMPDIR=str(tmp),
        WANDB_MODE="offline",
    )

    told = (kept / "first.txt").read_text()
    assert done.returncode == 0, done.stderr + told
    assert f"{disk}/run/last.ckpt was not saved" in told
    assert (kept / "status").read_text() == "1\n"  # its end is not on the disk
    assert f"lightning-rl: {disk}/run/last.ckpt is not what was learned last: it was not saved; to continue" in told
    assert "No space left on device" in told
    assert "Traceback" not in told
    assert load(kept)["ProcgenDataModule"]["env_steps"] == 2 * ENV_STEPS
    assert [row["env_steps"] for row in rows(kept)] == ["32", "64", "96", "128"]
    assert unlike(straight, load(kept / "run")) == []
    assert rows(kept / "run") == rows(tmp_path / "straight")


@needs_namespaces
def test_a_run_that_is_continued_without_a_byte_left_goes_on_to_its_end(tmp_path: Path) -> None:
    """It was killed after its first boundary, and while it logged the second; pictures are due, too."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    for folder in (disk, kept):
        folder.mkdir()
    args = fit_args(disk / "run", "--ckpt_path", "last", config="impala_vae")

    done = in_a_namespace(
        f"""
        mount -t tmpfs -o size=256m none {disk}
        $RUN "$@" 2> {kept}/first.txt
        mv {disk}/run/previous.ckpt {disk}/run/last.ckpt
        printf 96,1 >> {disk}/run/metrics.csv
        cp {disk}/run/config.yaml {kept}
        dd if=/dev/zero of={disk}/full bs=4k 2>/dev/null || true
        $RUN "$@" 2> {kept}/told.txt || echo $? > {kept}/status
        cp {disk}/run/last.ckpt {disk}/run/metrics.csv {kept}
        cmp {disk}/run/config.yaml {kept}/config.yaml
        """,
        *args,
    )

    told = (kept / "told.txt").read_text()
    assert done.returncode == 0, done.stderr + told
    for name in ("media/reconstructions.png", "media/latent_traversal.png", "media/episodes.mp4", "last.ckpt"):
        assert re.search(f"{disk}/run/{name} was not (written|saved) .*No space left on device", told)
    assert "Traceback" not in told
    assert load(kept)["ProcgenDataModule"]["env_steps"] == ENV_STEPS
    assert (kept / "status").read_text() == "1\n"  # its end is not on the disk


@needs_namespaces
def test_a_write_protected_disk_is_told_in_one_line(tmp_path: Path) -> None:
    done = in_a_namespace(
        f"""
        mount -t tmpfs -o ro none {tmp_path}
        $RUN "$@"
        """,
        *fit_args(tmp_path / "run"),
    )

    assert done.returncode == 2
    assert done.stderr == (
        f"lightning-rl: run_dir: {tmp_path}/run cannot be written; give a folder that you may write to\n"
    )
