"""Disks of a few kilobytes, in a process whose mounts nobody else sees and which vanish with it."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.runs import print_into, started

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER


def work_here() -> bool:
    """Whether this user may mount disks that nobody else sees."""
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def alone(function: Callable[..., None], output: Path, *args: object) -> None:
    """Calls a function in a process whose mounts are its own.

    Args:
        function: may mount disks.
        output: file for all that the process prints.
        args: for the function.

    Raises:
        AssertionError: it raised; its traceback is the message.
    """
    process = started(_alone, function, str(output), args)
    process.join(240)
    if process.exitcode != 0:
        raise AssertionError(f"exit code {process.exitcode}: {output.read_text()}")


def mount(folder: Path, options: str) -> None:
    """A new, empty disk."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """The same disk with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leaves no byte of a disk."""
    with (folder / "full").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:  # no space left
            return


def _alone(function: Callable[..., None], output: str, args: tuple[object, ...]) -> None:
    print_into(Path(output))
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS | _NEW_USER) != 0:
        raise OSError(ctypes.get_errno(), "mounts of its own were refused to this process")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    function(*args)
