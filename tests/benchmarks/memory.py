"""What a longer rollout costs in memory: `python -m tests.benchmarks.memory`.

Peak resident memory of a short training with each of two rollout lengths, in a process of its own each. The growth,
divided by the bytes of the frames added, is 1 where every frame is held once, and wanted to be at most 1.5.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.benchmarks import measure

WANTED = 1.5
FRAME_BYTES = 64 * 64 * 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    result.add_argument("--num-steps", nargs=2, type=measure.positive, default=[128, 512], metavar=("SHORT", "LONG"))
    result.add_argument("--num-envs", type=measure.positive, default=64)
    result.add_argument("--minibatch-size", type=measure.positive, default=2048)
    result.add_argument("--iterations", type=measure.positive, default=2)
    result.add_argument("--game", default="starpilot")
    result.add_argument("--single", type=measure.positive, help="train in this process with so many steps; print bytes")
    return result


def growth(short: int, long: int, *, short_peak: int, long_peak: int, num_envs: int) -> float:
    """Bytes that the peak grew by, per byte of frames added.

    Args:
        short: steps of the short rollout.
        long: steps of the long rollout.
        short_peak: peak of the short one, bytes.
        long_peak: peak of the long one, bytes.
        num_envs: environments.

    Returns:
        The ratio.

    Raises:
        ValueError: the long rollout is not the longer one.
    """
    if long <= short:
        raise ValueError(f"num_steps: the second must be more than the first, found {short} and {long}")
    return (long_peak - short_peak) / ((long - short) * num_envs * FRAME_BYTES)


def peak_bytes(status: str) -> int:
    """The peak of the resident memory, from a `/proc/self/status`.

    Not `ru_maxrss`, which starts at the parent's.
    """
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    if options.single is not None:
        print(json.dumps(_trained(options)))
        return
    short, long = options.num_steps
    same = ("num_envs", "minibatch_size", "iterations", "game")
    passed = [part for key in same for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    peaks = {}
    for num_steps in (short, long):
        peaks[num_steps] = measure.in_fresh_process("tests.benchmarks.memory", ["--single", str(num_steps), *passed])
        print(f"{num_steps} steps × {options.num_envs} envs: peak {peaks[num_steps] / 2**20:.0f} MiB", flush=True)
    ratio = growth(short, long, short_peak=peaks[short], long_peak=peaks[long], num_envs=options.num_envs)
    added = (long - short) * options.num_envs * FRAME_BYTES / 2**20
    verdict = "at most" if ratio <= WANTED else "ABOVE"
    print(f"growth {ratio:.2f} × the {added:.0f} MiB of frames added ({verdict} {WANTED})")


def _trained(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        measure.fit(
            Path(folder) / "run",
            game=options.game,
            num_envs=options.num_envs,
            num_steps=options.single,
            minibatch_size=options.minibatch_size,
            epochs=1,
            iterations=options.iterations,
        )
    return peak_bytes(Path("/proc/self/status").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
