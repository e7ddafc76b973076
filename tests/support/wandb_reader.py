"""Reads an offline Weights & Biases run back: what `wandb sync` would upload.

The file is a 7-byte header and a LevelDB log: blocks of 32 768 bytes, in them chunks of crc32 (u32), length (u16) and
type (u8), then the chunk; a record is one chunk, or several in a row.
"""

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

MESSAGES: Any = import_module("wandb.proto.wandb_internal_pb2")  # generated while it is imported: no names to check
Record = Any
BLOCK_BYTES = 32_768
FILE_HEADER_BYTES = 7
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_history(run_dir: Path) -> list[dict[str, float]]:
    """The logged rows of every run file under `run_dir`, oldest file first; numbers only, W&B's own keys included."""
    return [_numbers(record) for record in _records(run_dir) if record.HasField("history")]


def read_run_id(run_dir: Path) -> str:
    """The id that all run files under `run_dir` share: a resumed run adds a file, not an id."""
    run_ids: set[str] = {record.run.run_id for record in _records(run_dir) if record.HasField("run")}
    if len(run_ids) != 1:
        raise ValueError(f"expected the files of one W&B run under {run_dir}, found run ids {sorted(run_ids)}")
    return run_ids.pop()


def read_step_metrics(run_dir: Path) -> dict[str, str]:
    """The x-axis of each defined metric or pattern, by the last definition that counts."""
    definitions = [record.metric for record in _records(run_dir) if record.HasField("metric")]
    return {metric.name or metric.glob_name: metric.step_metric for metric in definitions}


def read_end(run_dir: Path) -> tuple[bool, int | None]:
    """Whether the run was said to be preempted, and the exit status it was ended with; None if it was not."""
    records = list(_records(run_dir))
    statuses = [record.exit.exit_code for record in records if record.HasField("exit")]
    return any(record.HasField("preempting") for record in records), statuses[-1] if statuses else None


def _records(run_dir: Path) -> Iterator[Record]:
    for path in sorted(run_dir.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        if not any(parent.is_symlink() for parent in path.parents):  # `latest-run` names one of the others again
            yield from map(MESSAGES.Record.FromString, _payloads(path.read_bytes()))


def _payloads(log: bytes) -> Iterator[bytes]:
    """The records' bytes; a record that the end of the file cuts off is left out."""
    position, record = FILE_HEADER_BYTES, b""
    while position + CHUNK_HEADER.size <= len(log):
        if BLOCK_BYTES - position % BLOCK_BYTES < CHUNK_HEADER.size:
            position += BLOCK_BYTES - position % BLOCK_BYTES  # no chunk header fits: the block ends in padding
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(log, position)
        position += CHUNK_HEADER.size
        chunk = log[position : position + length]
        if len(chunk) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        record = chunk if kind in (FULL, FIRST) else record + chunk
        if kind in (FULL, LAST):
            yield record
        position += length


def _numbers(record: Record) -> dict[str, float]:
    items = record.history.item
    row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {key: value for key, value in row.items() if isinstance(value, int | float)}
