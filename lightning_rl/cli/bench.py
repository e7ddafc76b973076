"""`lightning-rl bench`: how quick and how large an exported policy is."""

import argparse
import os
import sys

from rich.console import Console
from rich.table import Table

from lightning_rl.errors import UsageError, UsageParser
from lightning_rl.policies.folder import load_policy
from lightning_rl.policies.latency import BATCH_SIZES, Latency, latencies, policy_size
from lightning_rl.policies.onnx_model import has_onnx, onnx_model
from lightning_rl.runs.paths import users_path


def parser() -> argparse.ArgumentParser:
    """The options of `bench`."""
    options = UsageParser(
        prog="lightning-rl bench", allow_abbrev=False, description="Times the decisions of an exported policy."
    )
    options.add_argument("--policy", required=True, metavar="DIR", help="The policy folder, or hf://user/name.")
    options.add_argument("--seconds", type=float, default=1.0, help="Time for each case.")
    return options


def main(args: list[str]) -> int:
    """Prints parameters, bytes, multiply-adds, and milliseconds of a call.

    Args:
        args: what follows `bench` on the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: an option or the folder is wrong.
    """
    options = parser().parse_args(args)
    if not 0 <= options.seconds <= 600:
        raise UsageError(f"seconds must be from 0 to 600, found {options.seconds}")
    try:
        policy = load_policy(users_path("policy", options.policy) or "")
    except ValueError as error:
        raise UsageError(f"policy: {error}") from error
    size = policy_size(policy)
    sys.stdout.write(
        f"parameters     {size.parameters}\nbytes          {size.bytes} in float32\n"
        f"multiply-adds  {size.multiply_adds} for a frame\n"
    )
    model = onnx_model(policy) if has_onnx() else None  # the folder's own file is a stranger's, and is not run
    threads = tuple(sorted({1, len(os.sched_getaffinity(0))}))
    measured = list(latencies(policy, model, threads=threads, seconds=options.seconds))
    console = Console()
    if not console.is_terminal:
        console.width = 120  # rich would fold the table to 80 columns in a file
    console.print(_table(measured))
    if model is None:
        sys.stdout.write("onnxruntime is left out: pip install 'lightning_rl[onnx]'\n")
    return 0


def _table(measured: list[Latency]) -> Table:
    table = Table(title="milliseconds of a call (of one decision in it)")
    for column in ("runtime", "threads", *(f"batch {size}" for size in BATCH_SIZES)):
        table.add_column(column)
    rows: dict[tuple[str, int], list[str]] = {}
    for runtime, num_threads, batch_size, milliseconds in measured:
        cell = f"{milliseconds:.2f} ({milliseconds / batch_size:.3f})"
        rows.setdefault((runtime, num_threads), []).append(cell)
    for (runtime, num_threads), cells in rows.items():
        table.add_row(runtime, str(num_threads), *cells)
    return table
