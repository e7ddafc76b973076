"""Whether this machine computes in the precision that a config asks for."""

from pathlib import Path

import torch

_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 numbers; others convert each one, slower than float32 is."""
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return any(flag in flags for flag in _BF16_FLAGS)


def suitable(precision: str | int | None, accelerator: str) -> str | int | None:
    """`precision`, or `32-true` where bf16 is asked of a CPU that only emulates it.

    Args:
        precision: Lightning's `trainer.precision`.
        accelerator: Lightning's `trainer.accelerator`.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return "32-true" if precision == "bf16-mixed" and on_cpu and not cpu_has_bf16() else precision


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning's `trainer.accelerator` means NVIDIA's GPUs on this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
