"""Cores that this process may use."""

import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that the process may run on, within the quota of its container.

    Args:
        root: where the kernel's files are.
    """
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    limit = root / "sys/fs/cgroup/cpu.max"
    quota, _, period = (limit.read_text(encoding="utf-8") if limit.is_file() else "").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() else cores
