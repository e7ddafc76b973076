"""Files that are the old ones or the new ones after a kill, never half of each."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes `target`'s place once it is whole and on disk; its folder is made.

    Written beside the target, flushed, renamed, the folder flushed. After an error `target` is as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            flush(file)
        partial.replace(target)
        flush_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Whether this process alone holds `folder`, as long as it is in here; the kernel lets go of it for the killed.

    Held without asking where the system or the file system knows no locks. The folder is made, and is gone afterwards
    if nothing was put into it.
    """
    made = [missing for missing in (folder, *folder.parents) if not missing.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _locked(path) as alone:
        try:
            yield alone
        finally:
            if alone:
                path.unlink(missing_ok=True)  # by its holder only, or two others could each lock a file of this name
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


def remove_partial(folder: Path) -> None:
    """Removes what a kill has left half-written in a folder; nobody else may be writing there."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def flush(file: IO[bytes]) -> None:
    """Returns once what was written is on disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Returns once the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
