"""Closed, full and missing standard streams change no exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import fit_args

ROOT = Path(__file__).parents[2]

CLOSED_OR_FULL = {
    "a reader that has gone": "{} | true",
    "no stdout": "{} >&-",
    "a full disk": "{} > /dev/full",
    "no stderr": "{} 2>&-",
    "stderr on a full disk": "{} 2> /dev/full",
    "none at all": "{} <&- >&- 2>&-",
}

PRINTS = """
import sys
from lightning_rl.cli.standard_streams import keep_open
keep_open()
for number in range(9):
    print("x" * 10_000)
    print("y" * 10_000, file=sys.stderr)
sys.stdout.flush()
sys.stderr.flush()
assert open("later.txt", "w").fileno() > 2
sys.exit(7)
"""


def status(command: list[str], streams: str, folder: Path) -> int:
    """Exit status of a command whose streams the shell has redirected; "{}" stands for the command."""
    script = "set -o pipefail; " + streams.replace("{}", '"$@"')
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", script, "bash", *command], cwd=folder, env=environment, check=False).returncode


@pytest.mark.parametrize("streams", CLOSED_OR_FULL.values(), ids=CLOSED_OR_FULL)
def test_what_cannot_be_printed_is_dropped(streams: str, tmp_path: Path) -> None:
    assert status([sys.executable, "-c", PRINTS], streams, tmp_path) == 7


def test_what_can_be_printed_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert done.stdout == 9 * ("x" * 10_000 + "\n")
    assert done.stderr == 9 * ("y" * 10_000 + "\n")


@pytest.mark.parametrize(
    ("args", "expected", "streams"),
    [
        pytest.param(["--help"], 0, "{} | true", marks=pytest.mark.slow),
        pytest.param(["train"], 2, "{} <&- >&- 2>&-", marks=pytest.mark.slow),
        (["doctor", "--help"], 0, "{} | true"),
        (["doctor", "--help"], 0, "{} <&- >&- 2>&-"),
        (["doctor", "more"], 2, "{} 2>&1 | true"),
    ],
)
def test_a_command_that_only_answers_has_its_own_status(
    args: list[str], expected: int, streams: str, tmp_path: Path
) -> None:
    assert status([sys.executable, "-m", "lightning_rl", *args], streams, tmp_path) == expected


@pytest.mark.slow
def test_a_finished_run_ends_with_0(tmp_path: Path) -> None:
    """Without a standard output, and with a reader of the standard error that has gone."""
    args = fit_args(tmp_path / "run", iterations=1, model__network="two_conv")
    assert status([sys.executable, "-m", "lightning_rl", *args], "{} 2>&1 >&- | true", tmp_path) == 0
    assert (tmp_path / "run" / "last.ckpt").exists()
