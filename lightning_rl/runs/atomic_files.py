"""Atomic file writes: after a kill a file is the old one or the new one, never a part of either."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(target: Path) -> Iterator[IO[bytes]]:
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


def remove_partial(folder: Path) -> None:
    """Removes the partial files that a killed process has left in a folder; nobody else may be writing there."""
    for partial in folder.glob(".*.partial"):
        if not partial.is_dir():  # those are exports', which remove them themselves
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
