"""Reads `metrics.csv`. Without Lightning, so that a report over many runs starts at once."""

import csv
import io
from pathlib import Path

Row = dict[str, str]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`, each with the cells it has; none of a file that is not there.

    A last line without its line end was torn by a kill in mid-write: it is left out.

    Args:
        path: the file.

    Returns:
        The rows, in order, as text; empty cells left out.

    Raises:
        ValueError: the file has rows and its first column is not `env_steps`.
    """
    return read_table(path)[1]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of the file's complete lines; see `read_metrics`."""
    text = path.read_bytes() if path.exists() else b""
    lines = csv.reader(io.StringIO(text[: text.rfind(b"\n") + 1].decode(), newline=""))
    columns = next(lines, [])
    if columns and columns[0] != "env_steps":
        raise ValueError(f"{path}: expected 'env_steps' as the first column of a metrics.csv, found {columns[0]!r}")
    cells = (zip(columns, line, strict=False) for line in lines)
    return columns, [{column: cell for column, cell in row if cell} for row in cells]
