"""Choice of a training precision that this machine supports."""

from pathlib import Path

import torch

_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 instructions; without them, bf16 is emulated and slower than float32."""
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return any(flag in flags for flag in _BF16_FLAGS)


def supported_precision(precision: str | int | None, accelerator: str) -> str | int | None:
    """`precision`, or `32-true` in place of bf16 on a CPU that only emulates it.

    Args:
        precision: Lightning's `trainer.precision`.
        accelerator: Lightning's `trainer.accelerator`.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return "32-true" if precision == "bf16-mixed" and on_cpu and not cpu_has_bf16() else precision


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning's `trainer.accelerator` selects an NVIDIA GPU on this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
