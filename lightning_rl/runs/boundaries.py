"""Boundaries: epoch ends, where nothing is half consumed and a run can go on from."""

from pathlib import Path
from typing import Any

from lightning_rl.runs import checkpoint_files

_FOLDERS_UP = 3  # Lightning keeps checkpoints in folders within the run folder


def is_boundary(checkpoint: dict[str, Any]) -> bool:
    """Whether the checkpoint was saved at the end of an epoch, and not within one, as Lightning's callbacks can."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(progress["processed"] == progress["ready"])


def check_boundary(checkpoint: dict[str, Any], path: Path | None = None) -> None:
    """Refuses a checkpoint from which a run would go on with games that are ahead of its weights.

    Args:
        checkpoint: what was read.
        path: of the file, where it is known; the nearest boundary is looked for there.

    Raises:
        ValueError: it was saved within an epoch; names the nearest boundary.
    """
    if is_boundary(checkpoint):
        return
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    nearest = "" if path is None else f"; {_nearest(checkpoint, path)}"
    raise ValueError(
        f"ckpt_path: {path or 'the checkpoint'} must be of an epoch's end, found one saved within epoch"
        f" {checkpoint['epoch']}, after batch {batches}{nearest}"
    )


def _nearest(checkpoint: dict[str, Any], path: Path) -> str:
    """Which checkpoint of the same run is the nearest boundary, in the file's folder or those around it."""
    near: dict[Path, int] = {}
    for folder in list(path.absolute().parents)[:_FOLDERS_UP]:
        for other in sorted(folder.glob("*.ckpt")):
            distance = _distance(checkpoint, other)
            if distance is not None:
                near[other] = distance
        if (folder / "config.yaml").exists():
            break
    if not near:
        return "there is no boundary of this run beside it"
    return f"the nearest boundary is {min(near, key=lambda other: near[other])}"


def _distance(checkpoint: dict[str, Any], other: Path) -> int | None:
    """Optimizer steps between a checkpoint and a boundary of the same run; None where the file is none."""
    try:
        saved = checkpoint_files.read(other)
        same = saved[checkpoint_files.METADATA]["run_id"] == checkpoint[checkpoint_files.METADATA]["run_id"]
        return abs(saved["global_step"] - checkpoint["global_step"]) if same and is_boundary(saved) else None
    except (ValueError, KeyError, TypeError):
        return None
