"""A student's time for a decision beside its teacher's: `python -m tests.benchmarks.deciding STUDENT TEACHER`.

Both are policy folders, whose decisions for a batch of frames on one thread are timed in turn, in each runtime that is
installed. The medians of each round make one ratio.
"""

import argparse
from pathlib import Path

import torch

from lightning_rl.policies.folder import load_policy
from lightning_rl.policies.latency import BATCH_SIZES, latencies
from lightning_rl.policies.onnx_model import has_onnx, onnx_model
from lightning_rl.policies.policy import ExportedPolicy
from tests.benchmarks import measure

WANTED = 0.55


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.deciding", description=__doc__)
    result.add_argument("student", type=Path)
    result.add_argument("teacher", type=Path)
    result.add_argument("--batch-size", type=int, choices=BATCH_SIZES, default=16)
    result.add_argument("--rounds", type=measure.positive, default=20)
    result.add_argument(
        "--seconds", type=float, default=0.05, help="for each policy, runtime and batch size of a round"
    )
    return result


def milliseconds(policy: ExportedPolicy, onnx: bytes | None, *, batch_size: int, seconds: float) -> dict[str, float]:
    """Median time of a decision, by runtime."""
    timed = latencies(policy, onnx, threads=(1,), seconds=seconds)
    return {one.runtime: one.milliseconds for one in timed if one.batch_size == batch_size}


def main(arguments: list[str] | None = None) -> None:
    """Compares, and prints every round."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    policies = [load_policy(path) for path in (options.student, options.teacher)]
    models = [onnx_model(policy) if has_onnx() else None for policy in policies]
    print(measure.processor())
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        student, teacher = (
            milliseconds(policy, model, batch_size=options.batch_size, seconds=options.seconds)
            for policy, model in zip(policies, models, strict=True)
        )
        for runtime in student:
            pairs.setdefault(runtime, []).append((student[runtime], teacher[runtime]))
        print(f"round {number + 1}: student {student}, teacher {teacher}")
    for runtime, found in pairs.items():
        print(f"{runtime}: {measure.Ratios(pairs=found)} of the teacher's time; wanted {WANTED}")


if __name__ == "__main__":
    main()
