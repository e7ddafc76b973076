"""One process trains in a run folder at a time."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Locks `folder` for this process inside of the block; gives whether it got the lock.

    The kernel releases the lock of a process that is killed. Where the system or the file system has no locks, every
    process gets it. The folder is made, and is removed afterwards if nothing was put into it.
    """
    made = [missing for missing in (folder, *folder.parents) if not missing.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _locked(path) as alone:
        try:
            yield alone
        finally:
            if alone:
                path.unlink(missing_ok=True)  # by the holder only: else two others could each lock a file of this name
                with contextlib.suppress(OSError):  # not empty
                    for empty in made:
                        empty.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    while True:
        with path.open("ab") as file:
            alone = _try_to_lock(file)
            if alone and not _is_at(path, file):  # its holder has removed it meanwhile
                continue
            yield alone
            return


def _try_to_lock(file: IO[bytes]) -> bool:
    """Whether nobody else has."""
    try:
        import fcntl  # Windows has none

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
