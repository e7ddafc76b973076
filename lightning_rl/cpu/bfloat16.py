"""Choice of a training precision that this machine supports."""

from pathlib import Path

import torch

SUPPORTED_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names of the precisions that the networks support: weights, and what the games give, are float32."""

_ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true", "None": "32-true"}
_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 instructions; without them, bf16 is emulated and slower than float32."""
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return any(flag in flags for flag in _BF16_FLAGS)


def full_name(precision: str | int | None) -> str:
    """Lightning's full name of a precision, of which it knows shorter ones."""
    return _ALIASES.get(str(precision), str(precision))


def on_cpu(accelerator: str) -> bool:
    """Whether Lightning's `trainer.accelerator` selects the CPU on this machine."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def supported_precision(precision: str | int | None, accelerator: str) -> str | int | None:
    """`precision`, or `32-true` in place of bf16 on a CPU that only emulates it.

    Args:
        precision: Lightning's `trainer.precision`.
        accelerator: Lightning's `trainer.accelerator`.
    """
    emulated = full_name(precision) == "bf16-mixed" and on_cpu(accelerator) and not cpu_has_bf16()
    return "32-true" if emulated else precision


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning's `trainer.accelerator` selects an NVIDIA GPU on this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
