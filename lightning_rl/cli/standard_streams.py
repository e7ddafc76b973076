"""Standard streams that take whatever is printed: a reader that has gone, or a full disk, must not fail a run."""

import contextlib
import io
import os
import sys
from typing import Any


class _Lossy(io.FileIO):
    """Drops what cannot be written."""

    def write(self, data: Any, /) -> int:
        """The number of bytes that were written or dropped."""
        size = memoryview(data).nbytes
        try:
            written: int | None = super().write(data)
        except OSError:
            return size
        return size if written is None else written


def keep_open() -> None:
    """Gives this process its standard streams where they are closed, and lets no write to them fail.

    A closed stream's number would be that of the next file that is opened, and what is printed would land in that
    file. Streams that a program has put in the place of its own are left as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process lives
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lossy(stream))


def _lossy(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lossy(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="replace",  # a locale without dashes must not end the program
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
