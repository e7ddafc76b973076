"""Checkpoint files: written so that a kill leaves the old one or the new one, read without executing anything."""

import errno
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.types import _PATH
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from lightning_rl.durable import flush, replacing

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
METADATA = "lightning_rl"
_UNREADABLE = (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, struct.error)


class _ForeignError(Exception):
    """A readable file that holds something else."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, renames; the `last.ckpt` that was there becomes `previous.ckpt`.

    Lightning's own stages in `$TMPDIR`: across file systems its move is a copy, and nothing is flushed. When the disk
    is full the older checkpoints stay as they are, a warning says so, and training goes on to the next boundary.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Replaces `path` in one step."""
        target = Path(path)
        try:
            _require_space_beside(target)
            with replacing(target) as file:
                torch.save(checkpoint, file)
                flush(file)
                if target.name == LAST and target.exists():
                    _keep_as_previous(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            rank_zero_warn(
                f"{target} was not saved ({error}); older checkpoints are intact, the next boundary tries again"
            )

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads tensors and plain containers; what a checkpoint carries beyond that is refused, never executed."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint


def _require_space_beside(target: Path) -> None:
    """Raises where the disk cannot take another file of the target's size, before it is filled to the brim."""
    needed = target.stat().st_size if target.exists() else 0
    free = shutil.disk_usage(target.parent).free if target.parent.exists() else needed
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes are needed, {free} are free")


def _keep_as_previous(target: Path) -> None:
    link = target.with_name(f".{PREVIOUS}.partial")
    link.unlink(missing_ok=True)
    os.link(target, link)  # both names hold the file until the rename, so that a readable last.ckpt is always there
    link.replace(target.with_name(PREVIOUS))


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, of tensors and plain containers only.

    Raises:
        ValueError: there is none, it is damaged, it carries code, or lightning_rl did not write it.
    """
    if not path.is_file():
        raise ValueError(f"ckpt_path: {path} is not there{_newest_beside(path)}")
    try:
        return _load(path)
    except pickle.UnpicklingError as error:
        carries_code = re.search("GLOBAL|blocked", str(error)) is not None
        reason = "carries code or foreign objects, which are never executed" if carries_code else "is damaged"
        raise ValueError(f"ckpt_path: {path} {reason}{_newest_beside(path)}") from error
    except _ForeignError as error:
        raise ValueError(f"ckpt_path: {path} was not written by lightning_rl{_newest_beside(path)}") from error
    except _UNREADABLE as error:
        raise ValueError(f"ckpt_path: {path} is damaged or cut short{_newest_beside(path)}") from error


def _load(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, its checksums compared: torch writes them and does not look at them."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict) or not {METADATA, "state_dict"} <= checkpoint.keys():
        raise _ForeignError
    return checkpoint


def _newest_beside(path: Path) -> str:
    others = sorted(path.parent.glob("*.ckpt"), key=lambda other: other.stat().st_mtime, reverse=True)
    for other in others:
        if other != path and is_readable(other):
            return f"; the newest good one beside it is {other}"
    return "; there is no good one beside it"


def is_readable(path: Path) -> bool:
    """Whether a checkpoint of lightning_rl can be loaded from `path`."""
    try:
        _load(path)
    except (pickle.UnpicklingError, _ForeignError, *_UNREADABLE):
        return False
    return True


def take_policy(path: Path, network: nn.Module) -> None:
    """Puts the policy of a checkpoint, of whatever method, into `network`.

    Raises:
        ValueError: the file cannot be read, or its policy is of another shape.
    """
    try:
        saved = read(path)["state_dict"]
    except ValueError as error:
        raise ValueError(str(error).replace("ckpt_path", "policy_from", 1)) from error
    prefix = "network."
    policy = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
    built = network.state_dict()
    for name in sorted(policy.keys() | built.keys()):
        shapes = [None if tensors.get(name) is None else tuple(tensors[name].shape) for tensors in (policy, built)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"policy_from: {path} has {prefix}{name} of shape {shapes[0]}, this network of shape {shapes[1]}; give"
                " --model.network and --data.frame_stack as that policy was trained"
            )
    network.load_state_dict(policy)


def check_fits(checkpoint: dict[str, Any], path: Path, *, module: LightningModule, method: str, game: str) -> None:
    """Refuses a checkpoint of another method, game or shape.

    Raises:
        ValueError: names what differs.
    """
    metadata = checkpoint[METADATA]
    for key, expected in (("method", method), ("game", game)):
        if metadata.get(key) != expected:
            raise ValueError(f"ckpt_path: {path} is of {key} {metadata.get(key)}, this command of {key} {expected}")
    saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    built = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(saved.keys() | built.keys()):
        if saved.get(name) != built.get(name):
            raise ValueError(
                f"ckpt_path: {path} has {name} of shape {saved.get(name)}, this network of shape {built.get(name)};"
                " give the options that it was trained with"
            )
