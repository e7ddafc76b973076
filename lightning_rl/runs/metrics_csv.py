"""The learning curve on disk: `metrics.csv`, and the x-axis of Weights & Biases."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from typing_extensions import override

from lightning_rl.errors import UsageError
from lightning_rl.runs.atomic_files import atomic_write, flush
from lightning_rl.runs.metrics_rows import Row, read_metrics, read_table

__all__ = ["MetricsCSV", "read_metrics"]


class MetricsCSV(Logger):
    """Owns `metrics.csv`: one row per logged iteration, on the disk when `log_metrics` returns.

    The first column is `env_steps`, the others stand in order of first appearance. A key that appears later adds a
    column, and the file is replaced by its widened self in one step, so a kill never leaves less than was there.
    Metrics without `env_steps` belong to no point of the curve and are not written. A row that is given again is not
    written twice. Only rank zero writes. A file that is already there is continued.

    Args:
        path: the file; its folder is made with the first row.

    Raises:
        UsageError: a file is there that no run has written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._check()
        self._columns: list[str] = []  # of the file as it is known to be; empty: unknown, the next write is a rewrite
        self._unwritten: list[Row] = []
        self._given: Row = {}

    @property
    @override
    def name(self) -> str:
        """Empty: the run folder has a name, this file needs none."""
        return ""

    @property
    @override
    def version(self) -> str:
        """Empty: a run folder holds one curve."""
        return ""

    @property
    @override
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in `config.yaml`."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        """Appends one row; a full disk is warned about, and the row is written together with the next one.

        Args:
            metrics: the values of one iteration, `env_steps` among them.
            step: Lightning's own count of batches; not used.
        """
        if "env_steps" not in metrics:
            return
        row = {key: _cell(key, value) for key, value in metrics.items()}
        if row == self._given:
            return
        self._given = row
        self._unwritten.append(row)
        try:
            self._write()
        except OSError as error:
            self._columns = []  # whatever happened to the file, it is read again
            rank_zero_warn(f"{self.path} cannot be written ({error.strerror}); the row is kept and tried again")
        else:
            self._unwritten.clear()

    @rank_zero_only
    def truncate_after(self, env_steps: int, *, epochs: int) -> None:
        """Drops the rows beyond the checkpoint that a run continues from, and a torn last line.

        Args:
            env_steps: the checkpoint's.
            epochs: its number of epochs, for methods that do not play in each; a row of Lightning's says its own.
        """
        if self.path.exists():
            columns, rows = read_table(self.path)
            places = [_place(row) for row in rows]
            kept = [
                row for row, (step, epoch) in zip(rows, places, strict=True) if step <= env_steps and epoch < epochs
            ]
            before, after = self.path.read_bytes(), _lines(columns, kept).encode()
            if not before.startswith(after):
                _replace(self.path, after)
            elif before != after:
                os.truncate(self.path, len(after))  # which a full disk allows
            self._columns = columns
        self._given = {}

    def _check(self) -> None:
        try:
            for row in read_metrics(self.path):
                _place(row)
        except (ValueError, KeyError, csv.Error) as error:
            what = str(error).removeprefix(f"{self.path}: ")
            message = f"{self.path} must be a run's curve, to be continued; found another file ({what}): move it away"
            raise UsageError(message) from error

    def _write(self) -> None:
        keys = {key: None for row in self._unwritten for key in row}
        if self._columns and keys.keys() <= set(self._columns):
            _append(self.path, _lines(self._columns, self._unwritten, header=False))
            return
        known, rows = read_table(self.path)
        columns = list(dict.fromkeys(["env_steps", *known, *keys]))
        _replace(self.path, _lines(columns, [*rows, *self._unwritten]).encode())
        self._columns = columns


def _place(row: Row) -> tuple[int, int]:
    """A row's env steps and its epoch, -1 where it has none."""
    return int(row["env_steps"]), int(row.get("epoch", -1))


def _cell(key: str, value: float | int) -> str:
    """`env_steps` as a whole number, anything else as the shortest text that reads back as the same float."""
    return str(round(value)) if key in ("env_steps", "imagined_steps") else repr(value)


def _lines(columns: list[str], rows: Iterable[Row], *, header: bool = True) -> str:
    """The rows as CSV, under a header unless they continue a file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _append(path: Path, text: str) -> None:
    """Puts `text` at the end of the file, all of it or nothing.

    It is on the disk then: a resumed run cuts this file at its checkpoint, so the file must not lag behind that.
    """
    size = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            flush(file)
    except OSError:
        os.truncate(path, size)
        raise


def _replace(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
