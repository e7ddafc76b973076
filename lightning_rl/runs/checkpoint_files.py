"""Checkpoint files: written so that a kill leaves the old one or the new one, read without executing anything."""

import errno
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_rl.policies.folder import is_policy_folder, read_policy
from lightning_rl.runs.atomic_files import atomic_write, flush
from lightning_rl.runs.lightning_private import saved_loops
from lightning_rl.runs.signals import signals_held_back
from lightning_rl.state import Declared, from_plain, like, validate_state

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
METADATA = "lightning_rl"
_Dict = dict[Any, Any]
_CONTENTS: Declared = {METADATA: {"method": str, "game": str, "run_id": str}, "state_dict": dict[str, Tensor]}
_PLAIN = (dict, OrderedDict, list, tuple, str, int, float, bool, NoneType)
_MAX_DEPTH = 50
_DAMAGED = "is damaged or cut short"
_PASSING = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
"""Errors of a disk or of rights, which say nothing of what the file holds."""


class _UnusableError(Exception):
    """What is wrong with a file."""


@runtime_checkable
class DeclaresState(Protocol):
    """A callback that declares what it saves."""

    saved_as: type
    """A dataclass, as `lightning_rl.state` takes them."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, renames; the `last.ckpt` that was there becomes `previous.ckpt`.

    Lightning's own stages in `$TMPDIR`: across file systems its move is a copy, and nothing is flushed. When the disk
    is full the older checkpoints stay as they are, a warning says so, and training goes on to the next boundary.

    Attributes:
        unsaved: names of the files whose newest contents are not on disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unsaved: set[str] = set()

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Replaces `path` in one step."""
        target = Path(path)
        try:
            _require_space_beside(target)
            with signals_held_back(), atomic_write(target) as file:
                torch.save(checkpoint, file)
                flush(file)
                if target.name == LAST and target.exists():
                    _keep_as_previous(target)
            self.unsaved.discard(target.name)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            self.unsaved.add(target.name)
            rank_zero_warn(
                f"{target} was not saved ({error}); older checkpoints are intact, the next boundary tries again"
            )

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads tensors and plain containers; what a checkpoint carries beyond that is refused, never executed."""
        with signals_held_back():
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint


def _require_space_beside(target: Path) -> None:
    """Raises an OSError where the disk lacks room for another file of the target's size, before it fills up."""
    needed = target.stat().st_size if target.exists() else 0
    free = shutil.disk_usage(target.parent).free if target.parent.exists() else needed
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes are needed, {free} are free")


def _keep_as_previous(target: Path) -> None:
    """Links the file under both names, so that a readable `last.ckpt` exists at every moment."""
    previous = target.with_name(PREVIOUS)
    link = target.with_name(f".{PREVIOUS}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(target, link)
    except OSError:  # some file systems have no links
        with atomic_write(previous) as file, target.open("rb") as source:
            shutil.copyfileobj(source, file)
    else:
        link.replace(previous)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, of tensors and plain containers only.

    Raises:
        ValueError: there is none, it cannot be read, is damaged, carries code, or lightning_rl did not write it.
    """
    try:
        return _load(path)
    except _UnusableError as error:
        raise ValueError(f"ckpt_path: {path} {error}{_newest_beside(path)}") from error


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():  # a pipe or a device might never end
        raise _UnusableError("is no file" if path.exists() else "is not there")
    try:
        _check_archive(path)
        with signals_held_back():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        carries_code = re.search("GLOBAL|blocked", str(error)) is not None
        reason = "carries code or foreign objects, which are never executed" if carries_code else "is damaged"
        raise _UnusableError(reason) from error
    except Exception as error:  # zipfile and torch raise whatever altered bytes lead them to
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise ValueError(f"ckpt_path: {path} cannot be read now: {error.strerror}") from error
        raise _UnusableError(_DAMAGED) from error
    if not isinstance(checkpoint, dict) or not _CONTENTS.keys() <= checkpoint.keys():
        raise _UnusableError("was not written by lightning_rl")
    if not _is_plain(checkpoint):
        raise _UnusableError("carries code or foreign objects, which are never executed")
    try:
        validate_state(checkpoint, _CONTENTS)
    except ValueError as error:
        raise _UnusableError(f"was not written by lightning_rl: {error}") from error
    return checkpoint


def _check_archive(path: Path) -> None:
    """Verifies the checksums, which torch writes but does not read, once no member claims more than the file holds.

    Raises:
        BadZipFile: what torch would read is not what it has written.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch compresses nothing, so what would inflate is not its own
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > path.stat().st_size:
            raise zipfile.BadZipFile("it would inflate")
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")


def _is_plain(checkpoint: dict[str, Any]) -> bool:
    """Whether it holds only plain values and tensors no larger than their storage, nested `_MAX_DEPTH` deep at most."""
    inner: list[Any] = [checkpoint]
    for _ in range(_MAX_DEPTH):
        containers: dict[int, Any] = {}  # each once, however often it is held
        for container in inner:
            leaves = [*container.keys(), *container.values()] if isinstance(container, dict) else container
            if not all(_is_own_tensor(leaf) or type(leaf) in _PLAIN for leaf in leaves):
                return False
            containers |= {id(leaf): leaf for leaf in leaves if isinstance(leaf, dict | list | tuple)}
        inner = list(containers.values())
        if not inner:
            return True
    return False


def _is_own_tensor(value: Any) -> bool:
    if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return value.nbytes <= value.untyped_storage().nbytes()  # else it claims more memory than was saved


def _newest_beside(path: Path) -> str:
    others = [other for other in path.parent.glob("*.ckpt") if other != path and other.is_file()]
    for other in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True):
        if is_readable(other):
            return f"; the newest good one beside it is {other}"
    return "; there is no good one beside it"


def is_readable(path: Path) -> bool:
    """Whether a checkpoint of lightning_rl can be loaded from `path`.

    Raises:
        ValueError: the disk or the rights to read from it do not let this be told.
    """
    try:
        _load(path)
    except _UnusableError:
        return False
    return True


def take_policy(path: Path, module: LightningModule, *, parts: Sequence[str]) -> None:
    """Puts the policy of a checkpoint, of whatever method, or of a policy folder into `module`.

    Args:
        path: the checkpoint or the folder.
        module: the new agent.
        parts: names of the modules in it that acting needs.

    Raises:
        ValueError: the file cannot be read, or its policy is of another shape.
    """
    try:
        saved = read_policy(path).weights if is_policy_folder(path) else read(path)["state_dict"]
    except ValueError as error:
        raise ValueError("policy_from: " + str(error).removeprefix("ckpt_path: ")) from error
    prefixes = tuple(f"{part}." for part in parts)
    policy, built = (
        {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
        for tensors in (saved, module.state_dict())
    )
    for name in sorted(policy.keys() | built.keys()):
        shapes = [None if tensors.get(name) is None else tuple(tensors[name].shape) for tensors in (policy, built)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"policy_from: {path} has {name} of shape {shapes[0]}, this network of shape {shapes[1]}; give the"
                " network's options (--model.network, channels, hidden, ...) and --data.frame_stack as that policy had"
                " them; its config is beside it"
            )
    module.load_state_dict(policy, strict=False)


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


def check_progress(
    checkpoint: dict[str, Any],
    path: Path,
    *,
    module: LightningModule,
    trainer: Trainer,
    callbacks: Iterable[Callback],
    learns: bool = True,
) -> None:
    """Refuses a checkpoint whose training state does not fit, before Lightning restores a part of it.

    Args:
        checkpoint: its contents.
        path: its file.
        module: the module that it is for.
        trainer: the Trainer that it is for.
        callbacks: those that will be restored.
        learns: whether the run goes on learning, and needs the optimizer's state.

    Raises:
        ValueError: names the key.
    """
    schema = {
        "epoch": int,
        "global_step": int,
        "pytorch-lightning_version": str,
        "loops": like(saved_loops(trainer)),
        "callbacks": dict[str, _Dict],
        "optimizer_states": ({"state": dict[int, _Dict]},),
        "lr_schedulers": list[Any],
    }
    try:
        validate_state(checkpoint, schema)
        if re.fullmatch(r"\d+(\.\d+)+\w*", version := checkpoint["pytorch-lightning_version"]) is None:
            raise ValueError(f"pytorch-lightning_version must be a version, found {version}")  # noqa: TRY301  # told as the rest
        if learns:
            known = checkpoint["optimizer_states"][0]["state"].keys()
            _check_optimizer(checkpoint, _optimizer_schema(module, known))
        for callback in callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, DeclaresState):
                from_plain(callback.saved_as, state, f"callbacks.{callback.state_key}")
    except ValueError as error:
        raise ValueError(f"ckpt_path: {path}: {error}") from error


def optimizer_and_schedules(configured: Any) -> tuple[Any, list[LRScheduler]]:
    """What `configure_optimizers` returns, which is an optimizer alone where there is no schedule."""
    if isinstance(configured, dict):
        return configured["optimizer"], [configured["lr_scheduler"]["scheduler"]]
    return configured, []


def _check_optimizer(checkpoint: dict[str, Any], schema: dict[str, Declared]) -> None:
    saved, asked = len(checkpoint["lr_schedulers"]), len(schema.get("lr_schedulers", ()))
    if saved != asked:
        counts = ["a schedule of learning rates" if count else "none" for count in (saved, asked)]
        raise ValueError(f"its run has {counts[0]}, this command {counts[1]}; give model.scheduler as it was trained")
    validate_state(checkpoint, schema)


def _optimizer_schema(module: LightningModule, known: Iterable[int]) -> dict[str, Declared]:
    """What the optimizer saves after a step of the parameters that it knows; others may not have had a gradient yet."""
    copy = deepcopy(module)
    optimizer, schedules = optimizer_and_schedules(copy.configure_optimizers())
    if not isinstance(optimizer, Optimizer):
        return {}
    for parameter in copy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    saved = like(optimizer.state_dict())
    groups = tuple({"params": group["params"]} for group in saved["param_groups"])  # other options are this run's
    state = {index: saved["state"].get(index, Any) for index in known}
    return {
        "optimizer_states": ({"state": state, "param_groups": groups},),
        "lr_schedulers": tuple(like(schedule.state_dict()) for schedule in schedules),
    }
